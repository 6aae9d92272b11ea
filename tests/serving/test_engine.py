"""One thread runs every job alone; what waits is bounded; what is cancelled costs nothing."""

import asyncio
import threading

import pytest

from service.histories.local import LocalHistories
from service.histories.settings import HistorySettings
from serving.engine import Engine, Tables
from serving.problems import Problem


@pytest.fixture
def engine():
    made = Engine(Tables(LocalHistories(HistorySettings())), queue_limit=2)
    made.start()
    yield made
    made.close()


def test_every_job_runs_on_the_same_thread(engine):
    threads = {engine.do(lambda _: threading.get_ident()) for _ in range(3)}
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_a_job_that_fails_fails_for_its_caller_alone(engine):
    def fail(_):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        engine.do(fail)
    assert engine.do(lambda _: 7) == 7


def test_one_request_too_many_is_429_with_retry_after(engine):
    begun, hold = threading.Event(), threading.Event()

    def occupy(_):
        begun.set()
        hold.wait(30)

    async def crowd():
        running = asyncio.ensure_future(engine.ask(occupy))
        await asyncio.to_thread(begun.wait, 30)
        waiting = [running, *(asyncio.ensure_future(engine.ask(lambda _: None)) for _ in range(2))]
        await asyncio.sleep(0)
        with pytest.raises(Problem) as caught:
            await engine.ask(lambda _: 7)
        hold.set()
        await asyncio.gather(*waiting)
        return caught.value

    problem = asyncio.run(crowd())
    assert (problem.status, problem.kind) == (429, "overloaded")
    assert problem.headers["Retry-After"] == "1"


def test_a_cancelled_request_is_not_computed(engine):
    hold, ran = threading.Event(), []

    async def give_up():
        first = asyncio.ensure_future(engine.ask(lambda _: hold.wait(30)))
        second = asyncio.ensure_future(engine.ask(ran.append))
        while not engine.waiting:
            await asyncio.sleep(0.001)
        second.cancel()
        await asyncio.sleep(0)
        hold.set()
        await first

    asyncio.run(give_up())
    engine.do(lambda _: None)
    assert ran == []


def test_jobs_that_wait_are_finished_when_the_engine_closes():
    engine, done = Engine(Tables(LocalHistories(HistorySettings())), 8), []

    async def ask_and_close():
        asked = [asyncio.ensure_future(engine.ask(done.append)) for _ in range(5)]
        await asyncio.sleep(0)
        engine.start()
        engine.close()
        await asyncio.gather(*asked)

    asyncio.run(ask_and_close())
    assert len(done) == 5


def test_there_is_nothing_to_rank_with_before_a_version(engine):
    with pytest.raises(Problem) as caught:
        engine.do(lambda tables: tables.require_served())
    assert (caught.value.status, caught.value.kind) == (503, "not-ready")
    assert engine.served is None
