"""Histories under a limit of memory, against plain Python; resumed they go on bit for bit."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
import torch

from kernels.key_index import key_index
from service.errors import VersionError
from service.histories.local import (
    OWNER_BYTES,
    RECENT_IDS,
    Accepted,
    Events,
    LocalHistories,
)
from service.histories.rings import FIRST_BYTES, WORD_BYTES
from service.histories.segments import Segment, SegmentLog, compacted, concatenated
from service.histories.settings import HistorySettings
from service.store.budget import Budget
from service.store.settings import CapSettings
from tests.service.store.tables import Other

DAY_MS = 86_400_000
TTL_MS = 10 * DAY_MS
SETTINGS = HistorySettings(ttl_seconds=TTL_MS / 1000, capacity=64)
USERS = np.array([7, -3, 2**63 - 1, -(2**63) + 1, *range(100, 124)])

WhenFull = Literal["evict", "refuse"]


def limited(max_bytes: int | None, when_full: WhenFull = "evict") -> LocalHistories:
    budget = Budget(CapSettings(max_bytes=max_bytes, when_full=when_full))
    return LocalHistories(SETTINGS, budget)


@dataclass
class Line:
    """One user: what its rings hold and how long they are; records are what is in them."""

    last_ms: int = 0
    count: int = 0
    events: list[Any] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=lambda: {"events": 0, "ids": 0})

    def words(self) -> int:
        """Words by which the rings have grown."""
        return 2 * max(0, self.sizes["events"] - 8) + max(0, self.sizes["ids"] - 8)


class LimitedOracle:
    """What LocalHistories promise under a limit, for up to 4,096 users: event by event."""

    def __init__(self, max_bytes: int, when_full: WhenFull) -> None:
        self.max_bytes, self.when_full = max_bytes, when_full
        self.numbers = key_index("reference")
        self.users: dict[int, Line] = {}
        self.cursor = self.evicted = self.refused = self.shortened = 0
        self.sweep = 0

    @property
    def charged(self) -> int:
        words = sum(line.words() for line in self.users.values())
        lines = self.numbers.rows_end * OWNER_BYTES
        return lines + len(self.users) * FIRST_BYTES + words * WORD_BYTES

    def forget(self, users: list[int]) -> None:
        self.numbers.remove(torch.tensor(users, dtype=torch.int64))
        for user in users:
            self.users.pop(user, None)

    def overdue(self, watermark_ms: int) -> set[int]:
        return {u for u, line in self.users.items() if watermark_ms - line.last_ms > TTL_MS}

    def expire(self, watermark_ms: int, budget: int) -> list[int]:
        keys, due, gone = self.numbers.keys().tolist(), self.overdue(watermark_ms), []
        for _ in range(min(budget, len(keys))):
            gone += [keys[self.sweep]] if keys[self.sweep] in due else []
            self.sweep = (self.sweep + 1) % len(keys)
        self.forget(gone)
        return gone

    def append(self, events: Events, watermark_ms: int) -> tuple[list[int], list[bool], list[int]]:
        users = events.user_T.tolist()
        self.forget(sorted(set(users) & self.overdue(watermark_ms)))
        new = list(dict.fromkeys(user for user in users if user not in self.users))
        gone = self.make_room(len(new), set(users)) if self.when_full == "evict" else []
        welcome = self.welcome()
        self.numbers.insert(torch.tensor(new[:welcome], dtype=torch.int64))
        self.users.update({user: Line() for user in new[:welcome]})
        self.room = max(0, self.max_bytes - self.charged) // WORD_BYTES
        columns = (events.item_T, events.action_T, events.at_ms_T, events.id_T)
        told = [self.take(*e) for e in zip(users, *(c.tolist() for c in columns), strict=True)]
        ordinals = [ordinal for ordinal in told if ordinal is not None]
        return ordinals, [o is not None for o in told], gone + new[welcome:]

    def welcome(self) -> int:
        """New users that find room: their rings, and a line each where no free one is left."""
        left, count = self.max_bytes - self.charged, 0
        free = self.numbers.rows_end - len(self.users)
        while (left := left - FIRST_BYTES - (OWNER_BYTES if count >= free else 0)) >= 0:
            count += 1
        return count

    def make_room(self, new: int, spared: set[int]) -> list[int]:
        gone: list[int] = []
        while self.welcome() < new:
            keys = self.numbers.keys().tolist()
            others = [self.users[u].last_ms for u in self.users if u not in spared]
            if not others:
                break
            threshold = sorted(others)[(len(others) - 1) // 16]
            wanted = new * FIRST_BYTES - (self.max_bytes - self.charged)
            least, freed, round_ = 1 + len(self.users) // 128, 0, []
            for _ in keys:
                if freed >= wanted and len(round_) >= least:
                    break
                user = keys[self.cursor]
                self.cursor = (self.cursor + 1) % len(keys)
                if user in self.users and user not in spared:
                    line = self.users[user]
                    if line.last_ms <= threshold:
                        round_.append(user)
                        freed += FIRST_BYTES + line.words() * WORD_BYTES
            self.forget(round_)
            gone += round_
        self.evicted += len(gone)
        return gone

    def take(self, user: int, item: int, action: int, at_ms: int, name: int) -> int | None:
        line = self.users.get(user)
        if line is None:
            self.refused += 1
            return 0
        if line.count and at_ms - line.last_ms > TTL_MS:
            line.count = line.last_ms = 0
            line.events, line.ids = [], []
        if name and name in line.ids:
            return None
        self.push(line, "events", (item, action, at_ms), SETTINGS.capacity, 2)
        if name:
            self.push(line, "ids", name, RECENT_IDS, 1)
        line.count, line.last_ms = line.count + 1, max(line.last_ms, at_ms)
        return line.count - 1

    def push(self, line: Line, ring: str, record: Any, capacity: int, width: int) -> None:
        held: list[Any] = getattr(line, ring)
        size = line.sizes[ring]
        if len(held) == size < capacity:
            if size and size * width > self.room:
                self.shortened += 1
            else:
                self.room -= size * width
                line.sizes[ring] = max(8, 2 * size)
        held.append(record)
        del held[: -line.sizes[ring]]


def events_of(users: Any, at_ms: Any, ids: Any = 0) -> Events:
    user_T = np.array(users, np.int64)
    count = np.arange(len(user_T))
    return Events(user_T, count, count % 7, at_ms + 0 * count, ids + 0 * count)


LIMITS = [(6_000, "evict"), (12_000, "evict"), (14_000, "evict"), (6_000, "refuse")]


@pytest.mark.parametrize(("max_bytes", "when_full"), LIMITS)
@pytest.mark.parametrize("seed", range(2))
def test_limited_histories_are_what_the_oracle_holds(
    seed: int, max_bytes: int, when_full: WhenFull, blocks_of: Any, read: Any
) -> None:
    histories, oracle = limited(max_bytes, when_full), LimitedOracle(max_bytes, when_full)
    make = np.random.default_rng(seed)
    for events, watermark_ms in blocks_of(seed, blocks=90, size=80):
        ordinals, fresh, gone = oracle.append(events, watermark_ms)
        accepted = histories.append(events, watermark_ms)
        assert accepted.ordinal_T.tolist() == ordinals
        assert accepted.fresh_T.tolist() == fresh
        assert accepted.evicted_M.tolist() == gone
        budget = int(make.integers(0, 4))
        assert histories.expire(watermark_ms, budget).tolist() == oracle.expire(
            watermark_ms, budget
        )
        for user, found in read(histories).items():
            line = oracle.users.get(user, Line())
            assert found == (line.count, line.events)
        assert histories.charged_bytes == oracle.charged <= max_bytes
        assert histories.live_events == sum(len(u.events) for u in oracle.users.values())
        counts = (histories.evicted, histories.refused, histories.shortened)
        assert counts == (oracle.evicted, oracle.refused, oracle.shortened)
    assert oracle.shortened > 50
    assert (oracle.refused > 50) == (when_full == "refuse")
    assert (oracle.evicted > 5) == (when_full == "evict")


@pytest.mark.parametrize(("max_bytes", "when_full"), LIMITS)
@pytest.mark.parametrize("seed", range(3))
def test_resumed_histories_go_on_bit_for_bit(
    seed: int, max_bytes: int, when_full: WhenFull, blocks_of: Any, read: Any
) -> None:
    make, log = np.random.default_rng(seed), SegmentLog()
    original = limited(max_bytes, when_full)
    segments: list[Segment] = []
    followers: list[LocalHistories] = []
    for number, (events, watermark_ms) in enumerate(blocks_of(seed, blocks=80, size=80)):
        budget = int(make.integers(0, 4))
        asked = events.user_T[: int(make.integers(0, 3))]
        told = [one_block(h, events, watermark_ms, asked, budget) for h in [original, *followers]]
        accepted, gone = told[0]
        for again, left in told[1:]:
            assert again.ordinal_T.tolist() == accepted.ordinal_T.tolist()
            assert again.fresh_T.tolist() == accepted.fresh_T.tolist()
            assert left.tolist() == gone.tolist()
        for follower in followers:
            assert follower.charged_bytes == original.charged_bytes
            assert read(follower) == read(original)
        log.append(accepted.events, accepted.ordinal_T, gone)
        if make.random() < 0.3:
            segments.append(log.take())
        if segments and make.random() < 0.3:
            first = int(make.integers(0, len(segments)))
            segments[first:] = [compacted(concatenated(segments[first:]), SETTINGS.capacity)]
        if number % 16 == 15:
            segments.append(log.take())
            followers.append(limited(max_bytes, when_full))
            followers[-1].load(copied(original), segments)
            assert read(followers[-1]) == read(original)
    for follower in followers:
        assert same(follower.state(), original.state())
    assert len(followers) == 5


def one_block(
    histories: LocalHistories, events: Events, watermark_ms: int, asked: np.ndarray, budget: int
) -> tuple[Accepted, np.ndarray]:
    """As the trainer does it: what was accepted, and everyone without a history after it."""
    accepted = histories.append(events, watermark_ms)
    due = histories.expire_users(asked, watermark_ms)
    swept = histories.expire(watermark_ms, budget)
    return accepted, np.concatenate([accepted.evicted_M, due, swept])


def copied(histories: LocalHistories) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in histories.state().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("when_full", ["evict", "refuse"])
def test_a_server_without_a_limit_restores_the_same_users_and_their_last_events(
    when_full: WhenFull, blocks_of: Any, read: Any
) -> None:
    limit, log, free = limited(6_000, when_full), SegmentLog(), LocalHistories(SETTINGS)
    for events, watermark_ms in blocks_of(5, blocks=60, size=80):
        accepted, gone = one_block(limit, events, watermark_ms, events.user_T[:1], 3)
        log.append(accepted.events, accepted.ordinal_T, gone)
    compacted(log.take(), SETTINGS.capacity).restore(free)
    assert len(free) == len(limit)
    theirs = read(free)
    for user, (count, kept) in read(limit).items():
        assert theirs[user][0] == count
        assert theirs[user][1][len(theirs[user][1]) - len(kept) :] == kept


def test_without_a_limit_there_is_no_state_and_segments_are_all() -> None:
    for histories in (LocalHistories(SETTINGS), limited(None)):
        segment = Segment(events_of([1, 2, 1], DAY_MS), np.array([0, 0, 1]), np.array([2]))
        histories.load({}, [segment])
        assert histories.state() == {}
        assert len(histories) == 1


def test_segments_of_another_version_are_refused() -> None:
    histories = limited(10_000)
    histories.append(events_of([1, 1, 2], DAY_MS), 0)
    events = events_of([1, 2], DAY_MS)
    with pytest.raises(VersionError, match="hold fewer events than the checkpoint says"):
        limited(10_000).load(copied(histories), [Segment(events, np.zeros(2, int), USERS[:0])])


def room_for(users: int) -> int:
    return users * (OWNER_BYTES + FIRST_BYTES)


def test_who_was_unseen_for_longest_goes_and_whoever_acts_now_stays(read: Any) -> None:
    histories = limited(room_for(3))
    for user, at_ms in ((1, 100), (2, 200), (3, 300)):
        histories.append(events_of([user], at_ms), 0)
    accepted = histories.append(events_of([1, 4], 400), 0)
    assert accepted.evicted_M.tolist() == [2]
    assert accepted.ordinal_T.tolist() == [1, 0]
    assert {user: count for user, (count, _) in read(histories, np.arange(1, 5)).items()} == {
        1: 2, 2: 0, 3: 1, 4: 1,
    }  # fmt: skip
    assert histories.evicted == 1


def test_who_finds_no_room_is_fresh_each_time_and_named() -> None:
    for histories in (limited(room_for(1), "refuse"), limited(room_for(1))):
        accepted = histories.append(events_of([1, 2, 2, 1, 3], DAY_MS, ids=5), 0)
        assert accepted.fresh_T.tolist() == [True, True, True, False, True]
        assert accepted.ordinal_T.tolist() == [0, 0, 0, 0]
        assert accepted.evicted_M.tolist() == [2, 3]
        assert accepted.duplicates == 1
        assert (len(histories), histories.live_events) == (1, 1)
        assert (histories.refused, histories.evicted) == (3, 0)


def test_refused_users_are_welcome_once_others_have_left() -> None:
    histories = limited(room_for(2), "refuse")
    histories.append(events_of([1, 2], DAY_MS), 0)
    assert histories.append(events_of([3], DAY_MS), 0).evicted_M.tolist() == [3]
    histories.forget(np.array([1]))
    accepted = histories.append(events_of([3, 3], DAY_MS), 0)
    assert accepted.ordinal_T.tolist() == [0, 1]
    assert len(accepted.evicted_M) == 0


def test_a_ring_that_finds_no_room_keeps_its_last_events_and_grows_later(read: Any) -> None:
    grown_bytes = 8 * 2 * WORD_BYTES
    histories = limited(room_for(2) + grown_bytes, "refuse")
    histories.append(events_of([1] * 9 + [2] * 11, DAY_MS), 0)
    assert histories.shortened == 3
    found = read(histories, np.array([1, 2]))
    assert [(count, [e[0] for e in kept]) for count, kept in found.values()] == [
        (9, list(range(9))), (11, list(range(12, 20))),
    ]  # fmt: skip
    histories.forget(np.array([1]))
    histories.append(events_of([2] * 5, DAY_MS), 0)
    count, kept = read(histories, np.array([2]))[2]
    assert (count, [e[0] for e in kept]) == (16, [*range(12, 20), *range(5)])
    assert histories.shortened == 3


def test_other_holders_of_the_same_budget_leave_less_room() -> None:
    budget, others = Budget(CapSettings(max_bytes=room_for(10))), Other()
    budget.join(others)
    histories = LocalHistories(SETTINGS, budget)
    histories.append(events_of(range(8), DAY_MS), 0)
    assert budget.charged == histories.charged_bytes == room_for(8)
    others.charged_bytes = room_for(5)  # three users too many
    histories.append(events_of([0] * 20, DAY_MS), 0)
    assert (len(histories), histories.shortened) == (8, 13)
    assert len(histories.append(events_of([50], DAY_MS + 1), 0).evicted_M) > 3
    assert budget.charged <= room_for(10)


def test_nobody_is_forgotten_where_it_would_not_help() -> None:
    budget, others = Budget(CapSettings(max_bytes=room_for(10))), Other()
    budget.join(others)
    histories = LocalHistories(SETTINGS, budget)
    histories.append(events_of(range(8), DAY_MS), 0)
    others.charged_bytes = room_for(20)
    accepted = histories.append(events_of([1, 50, 2], DAY_MS), 0)
    assert accepted.evicted_M.tolist() == [50]
    assert (len(histories), histories.evicted, histories.refused) == (8, 0, 1)


def test_a_sample_of_many_users_tells_who_was_unseen_for_long() -> None:
    users, told = 20_000, []
    order = np.random.default_rng(0).permutation(users)
    for _ in range(2):
        histories = limited(room_for(users))
        for part in np.array_split(np.arange(users), 8):
            histories.append(Events(part, part, 0 * part, DAY_MS + order[part], 0 * part), 0)
        assert histories.evicted == 0
        gone = histories.append(events_of(range(users, users + 40), 2 * DAY_MS), 0).evicted_M
        more = histories.append(events_of(range(-300, 0), 2 * DAY_MS), 0).evicted_M
        assert len(gone) == 1 + users // 128
        assert 300 - len(gone) + 40 <= len(more) < 450
        unseen = order[np.concatenate([gone, more])] / users
        assert unseen.max() < 1.3 / 16
        assert len(np.unique(unseen)) == len(unseen)
        told.append((gone.tolist(), more.tolist()))
    assert told[0] == told[1]
