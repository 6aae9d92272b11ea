"""What is erased is gone from histories and segments, and everyone else's stays as it is."""

from typing import Any

import numpy as np
import pytest

from service.histories.erased import Erased, erase_from, without
from service.histories.local import Events, LocalHistories
from service.histories.segments import Segment, SegmentLog, compacted, concatenated
from service.histories.settings import HistorySettings
from service.store.budget import Budget
from service.store.settings import CapSettings

SETTINGS = HistorySettings(ttl_seconds=10 * 86_400, capacity=64)
NOBODY = np.zeros(0, np.int64)
HELD = np.array([7, -3, 2**63 - 1, -(2**63) + 1, *range(100, 124)])
"""The users of `blocks_of`."""


def events_of(user: int, at_ms: list[int], ids: list[int] | None = None) -> Events:
    count = np.arange(len(at_ms))
    columns = (np.array(at_ms, np.int64), np.array(ids or 0 * count, np.int64))
    return Events(np.full(len(at_ms), user), count, count % 7, *columns)


def kept(events: Events, erased: Erased) -> Events:
    return events.where(~erased.covers(events.user_T, events.at_ms_T))


def stored(segment: Segment) -> Segment:
    return Segment.from_tensors({n: t.clone() for n, t in segment.to_tensors().items()})


def restored_from(segments: list[Segment]) -> LocalHistories:
    histories = LocalHistories(SETTINGS)
    for segment in segments:
        segment.restore(histories)
    return histories


def drawn(make: np.random.Generator, events: Events) -> Erased:
    """A few users, erased up to the middle of the events."""
    users = make.choice(HELD, int(make.integers(1, 5)), replace=False)
    return Erased.of(dict.fromkeys(users.tolist(), int(np.median(events.at_ms_T))))


@pytest.mark.parametrize("seed", range(5))
def test_an_event_is_erased_by_its_user_and_its_time_alone(seed: int) -> None:
    make = np.random.default_rng(seed)
    users = [*make.integers(-(2**62), 2**62, 20).tolist(), 0]
    limits = {user: int(make.integers(0, 100)) for user in users[: 3 * seed]}
    user_T, at_ms_T = make.choice(users, 400), make.integers(0, 100, 400)
    told = zip(user_T.tolist(), at_ms_T.tolist(), strict=True)
    expected = [at <= limits.get(user, -1) for user, at in told]
    erased = Erased.of(limits)
    assert erased.covers(user_T, at_ms_T).tolist() == expected
    assert erased.covers(NOBODY, NOBODY).tolist() == []
    assert len(erased) == len(limits)


def test_what_is_new_is_who_was_not_erased_so_far() -> None:
    known = Erased.of({1: 10, 2: 10, 3: 10})
    newer = Erased.of({1: 10, 2: 11, 3: 9, 4: 5}).since(known)
    assert (newer.user_M.tolist(), newer.before_ms_M.tolist()) == ([2, 4], [11, 5])
    assert len(Erased.of({}).since(known)) == 0
    assert len(known.since(known)) == 0


@pytest.mark.parametrize("seed", range(8))
def test_histories_are_as_if_the_events_had_never_been(
    seed: int, blocks_of: Any, read: Any
) -> None:
    make = np.random.default_rng([seed, 1])
    told, never = LocalHistories(SETTINGS), LocalHistories(SETTINGS)
    blocks = [
        (Events(e.user_T, e.item_T, e.action_T, e.at_ms_T, 0 * e.id_T), watermark_ms)
        for e, watermark_ms in blocks_of(seed, blocks=40)
    ]
    at = int(make.integers(20, 38))
    erased = drawn(make, blocks[at][0])
    for number, (events, watermark_ms) in enumerate(blocks):
        never.append(kept(events, erased), watermark_ms)
        told.append(kept(events, erased) if number > at else events, watermark_ms)
        if number == at:
            assert read(told) != read(never)
            erase_from(told, erased)
        if number >= at:
            assert read(told, most=64) == read(never, most=64)
            for histories in (told, never):
                histories.expire(watermark_ms, 10**6)
            assert len(told) == len(never)
            assert told.live_events == never.live_events


def test_erasing_again_changes_nothing(blocks_of: Any, read: Any) -> None:
    make = np.random.default_rng(5)
    histories = LocalHistories(SETTINGS)
    blocks = blocks_of(5, blocks=20)
    for events, watermark_ms in blocks:
        histories.append(events, watermark_ms)
    erased = drawn(make, blocks[-1][0])
    erase_from(histories, erased)
    before = read(histories)
    again = erase_from(histories, erased)
    assert read(histories) == before
    assert (len(again.events), len(again.forgotten)) == (0, 0)
    histories.append(events_of(int(erased.user_M[0]), [2**41], [9]), 0)
    erase_from(histories, erased)
    repeated = histories.append(events_of(int(erased.user_M[0]), [2**41], [9]), 0)
    assert repeated.duplicates == 1  # its ids were left alone


@pytest.mark.parametrize("seed", range(10))
def test_segments_follow_and_can_be_rewritten_without_a_trace(
    seed: int, blocks_of: Any, read: Any
) -> None:
    make = np.random.default_rng([seed, 2])
    original, log, segments = LocalHistories(SETTINGS), SegmentLog(), []
    erased, followers, rewritten = Erased.of({}), [], 0
    for number, (events, watermark_ms) in enumerate(blocks_of(seed, blocks=60, size=80)):
        events = kept(events, erased)
        accepted = original.append(events, watermark_ms)
        for follower in followers:
            again = follower.append(events, watermark_ms)
            assert again.ordinal_T.tolist() == accepted.ordinal_T.tolist()
            assert again.fresh_T.tolist() == accepted.fresh_T.tolist()
        log.append(accepted.events, accepted.ordinal_T, original.expire(watermark_ms, 3))
        if make.random() < 0.3:
            segments.append(stored(log.take()))
        if make.random() < 0.2 and segments:
            segments = [compacted(concatenated(segments), SETTINGS.capacity)]
        if number % 12 == 11 and len(events) > 10:
            erased = drawn(make, events)
            done = erase_from(original, erased)
            log.append(done.events, done.ordinal_T, done.forgotten)
            segments.append(stored(log.take()))
            assert read(restored_from(segments)) == read(original)
            segments = [stored(without(segments, erased, SETTINGS.capacity))]
            columns = segments[0].events
            assert not erased.covers(columns.user_T, columns.at_ms_T).any()
            assert not len(segments[0].forgotten)
            follower = restored_from(segments)
            assert read(follower) == read(original)
            assert len(follower) == len(original)
            assert follower.live_events == original.live_events
            followers, rewritten = [follower], rewritten + 1
    assert rewritten >= 3


def test_no_byte_of_a_users_key_is_left_in_a_rewritten_segment() -> None:
    key, other = 0x1122334455667788, 5
    log, histories = SegmentLog(), LocalHistories(SETTINGS)
    for at_ms in ([10, 20], [30, 40]):
        for user in (key, other):
            accepted = histories.append(events_of(user, at_ms), 0)
            log.append(accepted.events, accepted.ordinal_T, NOBODY)
    erased = Erased.of({key: 40})
    done = erase_from(histories, erased)
    log.append(done.events, done.ordinal_T, done.forgotten)
    whole = log.take()
    written = without([whole], erased, SETTINGS.capacity)
    needle = key.to_bytes(8, "little")
    assert needle in content(whole)
    assert needle not in content(written)
    assert written.events.at_ms_T.tolist() == [10, 20, 30, 40]
    assert len(histories) == 1


def content(segment: Segment) -> bytes:
    return b"".join(t.numpy().tobytes() for t in segment.to_tensors().values())


def test_who_did_something_later_keeps_it_and_counts_from_zero(read: Any) -> None:
    histories, user = LocalHistories(SETTINGS), np.array([1])
    histories.append(events_of(1, [10, 60, 20, 70], ids=[1, 2, 3, 4]), 0)
    done = erase_from(histories, Erased.of({1: 50}))
    assert read(histories, user) == {1: (2, [(1, 1, 60), (3, 3, 70)])}
    assert (done.ordinal_T.tolist(), done.forgotten.tolist()) == ([0, 1], [])
    fresh = histories.append(events_of(1, [80, 80], ids=[4, 4]), 0).fresh_T
    assert fresh.tolist() == [True, False]  # ids from before tell no duplicates any more


def test_old_events_that_left_the_ring_long_ago_leave_the_segments_too() -> None:
    """Compaction keeps some that no read returns: the first, the last ids, the latest time."""
    at_ms = [10, 900, *range(100, 300)]
    ordinals = np.arange(len(at_ms))
    segment = Segment(events_of(1, at_ms, [5, 6, *[0] * 200]), ordinals, NOBODY)
    for before_ms, left in ((50, [900, *range(236, 300)]), (950, [])):
        one = without([segment], Erased.of({1: before_ms}), SETTINGS.capacity)
        assert one.events.at_ms_T.tolist() == left


def test_under_a_limit_memory_is_freed_and_a_restored_state_fits(read: Any) -> None:
    budget = Budget(CapSettings(max_bytes=10**6))
    histories, log = LocalHistories(SETTINGS, budget), SegmentLog()
    users = np.repeat(np.arange(50), 40)
    columns = np.arange(len(users))
    events = Events(users, columns, columns % 5, 1000 + columns, 1 + columns)
    accepted = histories.append(events, 0)
    log.append(accepted.events, accepted.ordinal_T, NOBODY)
    charged = budget.charged
    erased = Erased.of({**dict.fromkeys(range(10), 10**6), 20: 1000 + 20 * 40 + 30})
    done = erase_from(histories, erased)
    log.append(done.events, done.ordinal_T, done.forgotten)
    assert budget.charged < charged
    assert len(histories) == 40
    again = LocalHistories(SETTINGS, Budget(CapSettings(max_bytes=10**6)))
    again.load(histories.state(), [without([log.take()], erased, SETTINGS.capacity)])
    assert read(again, np.arange(50)) == read(histories, np.arange(50))
    assert again.read(np.array([20]), 64).count_B.tolist() == [9]
    keys = histories.state()["index.keys"].tolist()
    assert not set(range(10)) & set(keys)
