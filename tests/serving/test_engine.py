"""One thread runs every job alone; what waits is bounded; what is cancelled costs nothing."""

import asyncio
import threading

import pytest

from service.histories.local import LocalHistories
from service.histories.settings import HistorySettings
from serving.engine import TOGETHER_ROWS, Engine, Tables, Together
from serving.problems import Problem


@pytest.fixture
def engine():
    made = Engine(Tables(LocalHistories(HistorySettings())), 2, 9.0)
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
    engine, done = Engine(Tables(LocalHistories(HistorySettings())), 8, 9.0), []

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


class Number(Together):
    """A job that says whom it was done with."""

    def __init__(self, number: int, rows: int = 1) -> None:
        self.number, self._rows = number, rows

    @property
    def rows(self) -> int:
        return self._rows

    def __call__(self, tables):
        return self.together([self], tables)[0]

    @staticmethod
    def together(jobs, tables):
        if any(job.number < 0 for job in jobs):
            raise ValueError("less than nothing")
        return [(job.number, len(jobs)) for job in jobs]


def asked_while_busy(engine, jobs):
    """What becomes of jobs that come while another runs."""
    hold = threading.Event()

    async def ask():
        first = asyncio.ensure_future(engine.ask(lambda _: hold.wait(30)))
        while engine.waiting:
            await asyncio.sleep(0.001)
        others = [asyncio.ensure_future(engine.ask(job)) for job in jobs]
        while engine.waiting < len(jobs):
            await asyncio.sleep(0.001)
        hold.set()
        await first
        return await asyncio.gather(*others, return_exceptions=True)

    return asyncio.run(ask())


@pytest.fixture
def roomy():
    made = Engine(Tables(LocalHistories(HistorySettings())), 100, 9.0)
    made.start()
    yield made
    made.close()


def test_what_waits_together_is_done_together(roomy):
    assert roomy.do(Number(7)) == (7, 1)
    found = asked_while_busy(roomy, [Number(n) for n in range(5)])
    assert found == [(n, 5) for n in range(5)]


def test_other_jobs_keep_their_turn(roomy):
    order = []
    jobs = [Number(0), Number(1), lambda _: order.append("between"), Number(2), Number(3)]
    found = asked_while_busy(roomy, jobs)
    assert found == [(0, 2), (1, 2), None, (2, 2), (3, 2)]


def test_no_more_is_done_together_than_fits(roomy):
    found = asked_while_busy(roomy, [Number(n, TOGETHER_ROWS // 2) for n in range(5)])
    assert found == [(0, 2), (1, 2), (2, 2), (3, 2), (4, 1)]


def test_one_that_fails_fails_alone(roomy):
    a, b, c = asked_while_busy(roomy, [Number(1), Number(-1), Number(2)])
    assert (a, c) == ((1, 1), (2, 1))
    assert isinstance(b, ValueError)


def test_what_nobody_waits_for_any_more_is_429_and_not_computed():
    engine, ran = Engine(Tables(LocalHistories(HistorySettings())), 8, 0.05), []

    async def late():
        asked = asyncio.ensure_future(engine.ask(ran.append))
        await asyncio.sleep(0.1)
        engine.start()
        return await asyncio.gather(asked, return_exceptions=True)

    (problem,) = asyncio.run(late())
    engine.close()
    assert (problem.status, problem.kind, ran) == (429, "overloaded", [])


def test_who_would_wait_too_long_is_told_at_once(roomy):
    roomy._deadline_seconds, roomy._seconds = 1.0, 0.4

    async def ask():
        begun, hold = threading.Event(), threading.Event()

        def occupy(_):
            begun.set()
            hold.wait(30)

        first = asyncio.ensure_future(roomy.ask(occupy))
        await asyncio.to_thread(begun.wait, 30)
        asked = [asyncio.ensure_future(roomy.ask(lambda _: None)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Problem) as caught:
            await roomy.ask(lambda _: 7)
        hold.set()
        await asyncio.gather(first, *asked)
        return caught.value

    problem = asyncio.run(ask())
    assert (problem.status, problem.headers["Retry-After"]) == (429, "2")
    assert "for 1.2 s" in problem.detail
