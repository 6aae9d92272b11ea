"""Segments restore the very histories they were taken from, however they were merged."""

from typing import Any

import numpy as np
import pytest

from service.histories.local import Events, LocalHistories
from service.histories.segments import FIELDS, Segment, SegmentLog, compacted, concatenated
from service.histories.settings import HistorySettings

DAY_MS = 86_400_000
SETTINGS = HistorySettings(ttl_seconds=10 * 86_400, capacity=64)
NOBODY = np.zeros(0, np.int64)


def equal(a: Segment, b: Segment) -> bool:
    left, right = a.to_tensors(), b.to_tensors()
    return all(left[name].tolist() == right[name].tolist() for name in FIELDS)


def stored(segment: Segment) -> Segment:
    """Through the tensors of a version and back."""
    return Segment.from_tensors({n: t.clone() for n, t in segment.to_tensors().items()})


def events_of(user: int, at_ms: list[int], ids: list[int] | None = None) -> Events:
    count = np.arange(len(at_ms))
    columns = (np.array(at_ms, np.int64), np.array(ids or 0 * count, np.int64))
    return Events(np.full(len(at_ms), user), count, count % 7, *columns)


def test_a_segment_survives_its_tensors(blocks_of: Any) -> None:
    histories, log = LocalHistories(SETTINGS), SegmentLog()
    for events, watermark_ms in blocks_of(3, blocks=5):
        accepted = histories.append(events, watermark_ms)
        log.append(accepted.events, accepted.ordinal_T, np.array([4, -4]))
    segment = log.take()
    assert len(segment.events)
    assert equal(stored(segment), segment)
    assert equal(log.take(), concatenated([]))
    assert equal(stored(concatenated([])), concatenated([]))


def merged(segments: list[Segment], make: np.random.Generator) -> list[Segment]:
    """Random neighbours as one, with what no history would miss left out."""
    first = int(make.integers(0, len(segments)))
    last = int(make.integers(first, len(segments))) + 1
    one = compacted(concatenated(segments[first:last]), SETTINGS.capacity)
    return [*segments[:first], stored(one), *segments[last:]]


@pytest.mark.parametrize("seed", range(12))
def test_restored_histories_read_and_go_on_like_the_originals(
    seed: int, blocks_of: Any, read: Any
) -> None:
    make = np.random.default_rng(seed)
    original, log = LocalHistories(SETTINGS), SegmentLog()
    segments: list[Segment] = []
    followers: list[LocalHistories] = []
    for number, (events, watermark_ms) in enumerate(blocks_of(seed, blocks=90, size=80)):
        accepted = original.append(events, watermark_ms)
        for restored in followers:
            again = restored.append(events, watermark_ms)
            assert again.ordinal_T.tolist() == accepted.ordinal_T.tolist()
            assert again.fresh_T.tolist() == accepted.fresh_T.tolist()
            assert read(restored, events.user_T) == read(original, events.user_T)
        asked = events.user_T[: int(make.integers(0, 2))]
        gone = np.concatenate(
            [
                original.expire_users(asked, watermark_ms),
                original.expire(watermark_ms, int(make.integers(0, 4))),
            ]
        )
        log.append(accepted.events, accepted.ordinal_T, gone)
        if make.random() < 0.3:
            segments.append(stored(log.take()))
        if segments and make.random() < 0.2:
            segments = merged(segments, make)
        if number % 15 == 14:
            segments.append(stored(log.take()))
            followers.append(restored_from(segments))
            assert read(followers[-1]) == read(original)
            assert len(followers[-1]) == len(original)
            assert followers[-1].live_events == original.live_events
    assert len(followers) == 6
    assert len(log.take().events) == 0


def restored_from(segments: list[Segment]) -> LocalHistories:
    histories = LocalHistories(SETTINGS)
    for segment in segments:
        segment.restore(histories)
    return histories


def segment_of(events: Events, ordinals: list[int], forgotten: list[int] | None = None) -> Segment:
    return Segment(events, np.array(ordinals, np.int64), np.array(forgotten or [], np.int64))


def test_a_user_who_was_forgotten_and_came_back_is_not_named_forgotten(read: Any) -> None:
    parts = [
        segment_of(events_of(1, [5, 6]), [0, 1], [1, 2]),
        segment_of(events_of(1, [9]), [0]),
    ]
    one = concatenated(parts)
    assert one.forgotten.tolist() == [2]
    for segments in (parts, [one], [compacted(one, 64)]):
        assert read(restored_from(segments), np.array([1, 2])) == {1: (1, [(0, 0, 9)]), 2: (0, [])}


def test_a_user_who_came_back_and_was_forgotten_again_is_gone(read: Any) -> None:
    parts = [
        segment_of(events_of(1, [5]), [0], [1]),
        segment_of(events_of(1, [9]), [0], [1]),
    ]
    one = compacted(concatenated(parts), 64)
    assert one.forgotten.tolist() == [1]
    assert len(one.events) == 0
    assert len(restored_from([segment_of(events_of(1, [1]), [0]), one])) == 0


def test_compaction_keeps_what_the_ring_holds_and_the_event_that_restarts() -> None:
    whole = segment_of(events_of(1, list(range(200))), list(range(200)))
    assert compacted(whole, 64).ordinal_T.tolist() == [0, *range(136, 200)]
    restarted = segment_of(events_of(1, list(range(200))), [*range(190), *range(10)])
    assert compacted(restarted, 64).events.at_ms_T.tolist() == list(range(190, 200))


def test_ids_that_the_ring_of_events_has_left_behind_still_tell_duplicates() -> None:
    ids = [0, 42, *[0] * 100]
    whole = segment_of(events_of(1, [5] * 102, ids), list(range(102)))
    restored = restored_from([compacted(whole, 64)])
    assert restored.append(events_of(1, [5], [42]), 0).fresh_T.tolist() == [False]


def test_ids_from_before_a_restart_tell_none() -> None:
    parts = [
        segment_of(events_of(1, [5], [42]), [0], [1]),
        segment_of(events_of(1, list(range(6, 106))), list(range(100))),
    ]
    for segments in (parts, [parts[0], compacted(parts[1], 64)], [concatenated(parts)]):
        restored = restored_from(segments)
        assert restored.append(events_of(1, [200], [42]), 0).fresh_T.tolist() == [True]


def test_the_latest_time_counts_even_where_its_event_has_left_the_ring() -> None:
    late_ms = 8 * DAY_MS
    at_ms = [9 * DAY_MS, 20 * DAY_MS - 1, *[late_ms] * 100]
    restored = restored_from([compacted(segment_of(events_of(1, at_ms), list(range(102))), 64)])
    assert not len(restored.expire(30 * DAY_MS - 1, 10))
    assert restored.expire(30 * DAY_MS, 10).tolist() == [1]
