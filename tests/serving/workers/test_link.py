"""A worker's backend and the engine's desk, over a real socket, before a real engine."""

import asyncio
import itertools
import socket
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from serving import scoring
from serving.problems import Problem
from serving.questions import Rank, Recommend
from serving.workers import frames
from serving.workers.desk import UNDER_WAY, Desk
from serving.workers.remote import EngineFailed, RemoteCore

NOW_MS = 1_732_096_900_000


def rank(items, **more):
    keys = np.arange(1, len(items) + 1)
    return replace(Rank(5, items, keys, NOW_MS, None), **more)


@asynccontextmanager
async def linked(core):
    """A remote core whose desk stands before `core`, and that desk."""
    methods = {name: getattr(core, name) for name in ("require_ready", "versions", "activate")}
    ours, theirs = socket.socketpair()
    desk, gone = Desk(core, methods), asyncio.Event()
    await asyncio.get_running_loop().create_unix_connection(lambda: desk, sock=ours)
    remote = RemoteCore(theirs, list, gone.set)
    await remote.start()
    try:
        yield remote, desk, gone
    finally:
        remote.close()
        await desk.gone.wait()


@pytest.fixture
def busy(site):
    """Keeps the engine from answering until it is told to go on."""
    hold = threading.Event()
    holder = threading.Thread(target=lambda: site.core.engine.do(lambda _: hold.wait(30)))
    holder.start()
    yield hold
    hold.set()
    holder.join()


async def until(holds, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_answers_are_those_of_the_core(site):
    questions = [
        rank(["a", 7, "c"]),
        rank(["a", 7, "c"], n=1, explain=True),
        Recommend(5, 4, True, np.zeros(0, np.int64), NOW_MS),
    ]

    async def ask():
        async with linked(site.core) as (remote, _, _):
            found = await asyncio.gather(*map(remote.ask, questions))
            own = [await site.core.ask(question) for question in questions]
            return found, own, await remote.versions(), await site.core.versions()

    found, own, versions, own_versions = asyncio.run(ask())
    # How the history was read, and when, may differ: the second one asks later.
    assert [one.items for one in found] == [one.items for one in own]
    assert [one.score_N for one in found] == [one.score_N for one in own]
    assert [one.actions for one in found] == [one.actions for one in own]
    assert [one.served for one in found] == [one.served for one in own]
    assert found[1].explained.whole["version"] == 1
    assert versions.keys() == own_versions.keys()


def test_problems_are_those_of_the_core(site):
    async def ask():
        async with linked(site.core) as (remote, _, _):
            with pytest.raises(Problem) as caught:
                await remote.activate(99)
            return caught.value

    problem = asyncio.run(ask())
    assert (problem.kind, problem.status) == ("no-such-version", 404)
    assert str(problem) == "version 99 is not there; GET /v1/versions names those that are"


def test_a_fault_in_the_engine_is_logged_there_and_one_here(site, caplog, monkeypatch):
    def fail(*_):
        raise KeyError("made up")

    monkeypatch.setattr(scoring.Rank, "together", staticmethod(fail))

    async def ask():
        async with linked(site.core) as (remote, _, _):
            with pytest.raises(EngineFailed, match="made up"):
                await remote.ask(rank(["a"]))

    asyncio.run(ask())
    assert "KeyError" in caplog.text


def test_an_answer_that_cannot_travel_is_a_fault_of_its_request_alone(site, monkeypatch):
    found = scoring.Rank.together

    def spoil(jobs, tables):
        [ranking] = found(jobs, tables)
        return [replace(ranking, left_out=np.float64(1)) if jobs[0].n else ranking]

    monkeypatch.setattr(scoring.Rank, "together", staticmethod(spoil))

    async def ask():
        async with linked(site.core) as (remote, _, _):
            with pytest.raises(EngineFailed, match="float64"):
                await remote.ask(rank(["a"], n=1))
            return await remote.ask(rank(["a"]))

    assert asyncio.run(ask()).items == ["a"]


def test_what_nobody_waits_for_is_not_computed(site, busy, monkeypatch):
    ranked = []
    monkeypatch.setattr(scoring.Rank, "together", staticmethod(ranked.append))

    async def give_up():
        async with linked(site.core) as (remote, desk, _):
            asked = remote.ask(rank(["a"]))
            await until(lambda: site.core.engine.waiting == 1)
            asked.cancel()
            await until(lambda: not (remote._waiting or desk._asked))

    asyncio.run(give_up())
    busy.set()
    site.core.engine.do(lambda _: None)
    assert ranked == []


def test_what_a_dead_worker_asked_is_not_computed(site, busy, monkeypatch):
    ranked = []
    monkeypatch.setattr(scoring.Rank, "together", staticmethod(ranked.append))

    async def die():
        async with linked(site.core) as (remote, _, _):
            remote.ask(rank(["a"]))
            await until(lambda: site.core.engine.waiting == 1)
            remote._transport.abort()

    asyncio.run(die())
    busy.set()
    site.core.engine.do(lambda _: None)
    assert ranked == []


def test_who_waits_when_the_engine_goes_is_refused_and_so_is_who_comes_then(site, busy):
    async def lose():
        async with linked(site.core) as (remote, desk, gone):
            asked = [remote.ask(rank(["a"])) for _ in range(3)]
            await until(lambda: len(desk._asked) == 3)
            desk._transport.abort()
            found = await asyncio.gather(*asked, return_exceptions=True)
            with pytest.raises(Problem) as caught:
                remote.ask(rank(["a"]))
            await asyncio.wait_for(gone.wait(), 5)
            assert remote.lost
            return [*found, caught.value]

    for problem in asyncio.run(lose()):
        assert (problem.kind, problem.status) == ("engine-gone", 503)
        assert problem.headers == {"Retry-After": "1"}


def test_an_end_that_was_ordered_is_no_loss(site):
    async def close():
        async with linked(site.core) as (remote, _, gone):
            remote.close()
            await until(lambda: remote._transport is None)
            return remote.lost, gone.is_set()

    assert asyncio.run(close()) == (False, False)


def test_time_on_the_way_counts_as_waiting(site, busy):
    async def late():
        async with linked(site.core) as (remote, desk, _):
            number, asked = remote._expect(rank(["a"]))
            remote.send(frames.asks(number, time.monotonic() - 60.0, rank(["a"])))
            await until(lambda: desk._asked)
            busy.set()
            with pytest.raises(Problem) as caught:
                await asked
            return caught.value

    problem = asyncio.run(late())
    assert (problem.kind, problem.status) == ("overloaded", 429)


def test_one_question_too_many_is_refused_by_the_engine(run_site, publish):
    publish(1)
    with run_site(serving={"queue_limit": 2}) as site:
        site.until_ready()
        hold = threading.Event()
        holder = threading.Thread(target=lambda: site.core.engine.do(lambda _: hold.wait(30)))

        async def crowd():
            async with linked(site.core) as (remote, _, _):
                asked = [remote.ask(rank(["a"])) for _ in range(5)]
                await until(lambda: sum(one.done() for one in asked) == 3)
                hold.set()
                return await asyncio.gather(*asked, return_exceptions=True)

        holder.start()
        site.until(lambda: not site.core.engine.waiting)
        found = asyncio.run(crowd())
        holder.join()
    refused = [one for one in found if isinstance(one, Problem)]
    assert [(one.kind, one.headers) for one in refused] == [
        ("overloaded", {"Retry-After": "1"})
    ] * 3


def test_a_worker_that_does_not_read_is_not_read_either(site):
    """What it may have in the engine's memory is bounded, however much it asks for."""

    answer = b"x" * 2**16

    async def large():
        return answer

    def call(number):
        return frames.framed(frames.Calls(number, "large"))

    async def flood():
        ours, theirs = socket.socketpair()
        desk = Desk(site.core, {"large": large})
        await asyncio.get_running_loop().create_unix_connection(lambda: desk, sock=ours)
        theirs.setblocking(False)
        numbers = itertools.count()
        calls, most, last = b"", 0, time.monotonic()
        while time.monotonic() - last < 0.5:  # until nothing more is taken
            try:
                calls = calls or b"".join(call(next(numbers)) for _ in range(100))
                calls = calls[theirs.send(calls) :]
                last = time.monotonic()
            except BlockingIOError:
                pass
            await asyncio.sleep(0)
            most = max(most, desk._transport.get_write_buffer_size() + len(desk._bytes))
        assert desk.crowded
        theirs.setblocking(True)
        theirs.settimeout(10)
        received = 0
        while received < 2 * most:  # what waited is answered when the worker reads again
            received += len(await asyncio.to_thread(theirs.recv, 2**20))
        theirs.close()
        await desk.gone.wait()
        return most

    most = asyncio.run(flood())
    assert most < frames.AHEAD_BYTES + (UNDER_WAY + 8) * (len(answer) + 100)


def test_a_worker_whose_engine_does_not_read_refuses(site):
    async def fill():
        ours, theirs = socket.socketpair()
        remote = RemoteCore(theirs, list, lambda: None)
        await remote.start()
        asked = []
        while not remote.crowded:
            asked.append(remote.ask(rank(list(range(4096)))))
            await asyncio.sleep(0)
        with pytest.raises(Problem) as caught:
            remote.ask(rank(["a"]))
        assert remote._transport.get_write_buffer_size() < 2 * frames.AHEAD_BYTES
        ours.close()
        await asyncio.gather(*asked, return_exceptions=True)
        return caught.value

    problem = asyncio.run(fill())
    assert (problem.kind, problem.status) == ("overloaded", 429)


def test_an_append_wakes_who_follows_the_topic(site, monkeypatch):
    heard = []
    monkeypatch.setattr(site.core, "appended", heard.append)

    async def append():
        async with linked(site.core) as (remote, _, _):
            await asyncio.to_thread(remote.appended, "actions")
            await until(lambda: heard)

    asyncio.run(append())
    assert heard == ["actions"]
