"""The benchmark of the stack: what it sends, how it counts, and a small run of real processes."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.report import CheckFailed
from benchmarks.stack import accounts
from benchmarks.stack.client import Site, Unanswered
from benchmarks.stack.plan import Plan, arrivals
from benchmarks.stack.probes import Probe, Scores
from benchmarks.stack.sent import REQUEST, Sent, column
from benchmarks.stack.visitors import Visitors
from benchmarks.stack.watch import Look, cores, growth_bytes
from benchmarks.stack.world import World
from service.actions import Impression
from service.streams import LocalStream
from serving.batches import append_by_user

PLAN = Plan(ports=[], seconds=1.0, users=200, items=300, candidates=40, shown=5)


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[LocalStream]:
    with closing(LocalStream(tmp_path / "stream")) as made:
        yield made


def test_arrivals_keep_the_rate_and_repeat_by_seed() -> None:
    times = list(arrivals(100.0, 10.0, 60.0, "a"))
    assert len(times) == pytest.approx(5_000, rel=0.05)
    assert times == sorted(times)
    assert 10.0 < times[0] < times[-1] < 60.0
    assert times == list(arrivals(100.0, 10.0, 60.0, "a")) != list(arrivals(100.0, 10.0, 60.0, "b"))
    assert list(arrivals(0.0, 0.0, 60.0, "a")) == []


def test_the_world_repeats_by_seed_and_its_next_items_can_be_guessed() -> None:
    worlds = [World(100, 1_000, seed) for seed in (1, 1, 2)]
    acts = [[world.act() for _ in range(20_000)] for world in worlds]
    assert acts[0] == acts[1] != acts[2]
    last: dict[str, int] = {}
    guessed = 0
    for user, item in acts[0]:
        number = int(item.removeprefix("item-"))
        guessed += user in last and number in {
            (last[user] * 7919 + j * 104_729 + 1) % 1_000 for j in range(4)
        }
        last[user] = number
    assert guessed / len(acts[0]) == pytest.approx(0.6, abs=0.05)


def test_candidates_are_distinct_and_half_of_them_popular() -> None:
    world = World(10, 10_000, 0)
    lists = [world.candidates(256) for _ in range(20)]
    assert all(len(set(items)) == 256 for items in lists)
    ranks = np.array([int(item[5:]) for items in lists for item in items])
    assert 0.3 < (ranks < 1_000).mean() < 0.6  # by chance alone it would be 0.1


def test_clicks_on_lists_follow_with_their_request_and_ids_of_their_own() -> None:
    sent = Sent()
    visitors = Visitors(PLAN, sent)
    user = visitors.world.visitor()
    for _ in range(50):
        visitors.shown(user, [f"item-{n}" for n in range(40)], "r-1")
    visitors._clicks = [(0.0, *click[1:]) for click in visitors._clicks]
    clicked = len(visitors._clicks)
    actions = visitors.actions(clicked + 10)
    assert clicked > 10
    assert Counter(action.request for action in actions) == {"r-1": clicked, None: 10}
    assert {action.id for action in actions} == {f"a0-{n}" for n in range(clicked + 10)}
    sent.accept(actions[:3])
    assert sum(sent.accepted) == 3


def test_what_was_sent_is_read_as_it_was_written(tmp_path: Path) -> None:
    sent = Sent(posts=[(1.0, 0.1, 202, 0.0), (2.0, 0.2, 503, 0.0)], again=1, ranked=2)
    sent.new_id()
    sent.see(0, 4)
    sent.see(0, 4)
    sent.write(tmp_path / "sent.npz")
    found = Sent.read(tmp_path / "sent.npz")
    assert (found.posts, found.accepted, found.again, found.ranked) == (sent.posts, [False], 1, 2)
    assert len(found.seen) == 1
    assert column(found.posts, REQUEST, "status").tolist() == [202, 503]


def logged(stream: LocalStream, again: int = 0, lost: int = 0) -> tuple[Sent, dict[str, list[int]]]:
    """30 accepted actions and a shown list in the log; of the actions some twice, some missing."""
    begun, sent = accounts.ends(stream), Sent()
    actions = Visitors(PLAN, sent).actions(30)
    append_by_user(stream, "actions", actions[lost:] + actions[lost : lost + again])
    append_by_user(stream, "impressions", [Impression(request="r", user=1, at=1.0, items=[1])])
    sent.accept(actions)
    sent.ranked, sent.again = 1, again
    return sent, begun


def test_a_whole_log_passes(stream: LocalStream) -> None:
    logged(stream)  # what was there before does not count
    sent, begun = logged(stream, again=2)
    found = accounts.kept(stream, begun, sent)
    accounts.check_kept(found, sent)
    assert (found.actions, found.impressions, found.doubled) == (32, 1, 2)


def test_a_lost_action_a_lost_list_and_an_action_twice_are_found(stream: LocalStream) -> None:
    sent, begun = logged(stream, lost=1)
    with pytest.raises(CheckFailed, match="missing=1"):
        accounts.check_kept(accounts.kept(stream, begun, sent), sent)
    sent, begun = logged(stream)
    sent.ranked = 2
    with pytest.raises(CheckFailed, match="2 lists were shown, 1 are in the log"):
        accounts.check_kept(accounts.kept(stream, begun, sent), sent)
    sent, begun = logged(stream, again=1)
    sent.again = 0
    with pytest.raises(CheckFailed, match="twice"):
        accounts.check_kept(accounts.kept(stream, begun, sent), sent)


@pytest.mark.parametrize("name", ["records", "actions", "positives_trained", "rejected_bad_id"])
def test_counters_that_grew_otherwise_are_found(stream: LocalStream, name: str) -> None:
    sent, begun = logged(stream)
    found = accounts.kept(stream, begun, sent)
    before = {"records": 5, "actions": 5, "positives_trained": 5}
    after = {
        "records": 36, "actions": 35, "positives_trained": 30, "context_only": 5, "impressions": 1,
    }  # fmt: skip
    accounts.check_learned(found, before, after)
    with pytest.raises(CheckFailed, match=name if name != "positives_trained" else "learned"):
        accounts.check_learned(found, before, {**after, name: after.get(name, 0) + 1})


def test_cores_and_growth_are_told_from_looks() -> None:
    looks = [Look(float(s), s * 0.5, 100 if s < 30 else 130 + s) for s in range(100)]
    assert cores(looks) == pytest.approx(0.5)
    assert growth_bytes(looks, 0) > 100
    assert growth_bytes(looks, 30) < 70


def test_a_probe_ends_when_every_server_ranks_otherwise_by_one_version() -> None:
    asked: Counter[tuple[str, int]] = Counter()

    async def rank(server: int, user: str, items: object, at: float) -> Scores | None:
        """Each answer of the second server is by a newer version; it alone changes scores."""
        asked[user, server] += 1
        version = asked[user, server] if server else 1
        seen = 0.5 if user == "new" and asked[user, server] > 6 + 3 * server else 0.0
        scored = [{"item": "item-1", "score": version + seen}]
        return msgspec.convert({"version": version, "items": scored}, Scores)

    async def probed() -> None:
        probe = Probe("new", ["item-1"], rank)
        await probe.unseen(range(2))
        await probe.changed(range(2))

    asyncio.run(probed())
    assert (asked["new", 0], asked["new", 1]) == (7, 10)
    assert (asked["nobody", 0], asked["nobody", 1]) == (1, 10)


def test_the_client_reads_answers_in_pieces_and_says_who_is_gone() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError), contextlib.closing(writer):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                if body == b"die":
                    return
                whole = b"HTTP/1.1 202 Accepted\r\nContent-Length: %d\r\n\r\n" % length + body
                for part in (whole[:9], whole[9:30], whole[30:]):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.01)

    async def ask() -> list[tuple[int, bytes]]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        site = Site(server.sockets[0].getsockname()[1])
        answers = await asyncio.gather(*(site.post("/", b"body %d" % n) for n in range(3)))
        answers.append(await site.post("/", b"again"))
        with pytest.raises(Unanswered):
            await site.post("/", b"die")
        site.close()
        server.close()
        await asyncio.sleep(0.05)  # for the closed connections to be noticed
        return answers

    bodies = [b"body 0", b"body 1", b"body 2", b"again"]
    assert asyncio.run(ask()) == [(202, body) for body in bodies]
