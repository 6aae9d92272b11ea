"""A packed history, unpacked elsewhere, goes on as if it had never left."""

import numpy as np
import pytest

from service.histories.local import RECENT_IDS, Events, LocalHistories
from service.histories.packing import HEADER
from service.histories.redis.values import ValueDamaged, history_of, join, split
from service.histories.settings import HistorySettings

DAY_MS = 86_400_000
TTL = HistorySettings(ttl_seconds=10 * 86_400, capacity=64)
SEEDS = range(6)


def users_of(events):
    return np.unique(events.user_T)


def same(found, expected):
    names = ("offsets", "item_T", "action_T", "at_ms_T", "count_B")
    return all(np.array_equal(getattr(found, n), getattr(expected, n)) for n in names)


@pytest.mark.parametrize("seed", SEEDS)
def test_histories_that_live_outside_between_blocks_are_what_they_would_be(blocks_of, read, seed):
    outside, scratch, whole = {}, LocalHistories(TTL), LocalHistories(TTL)
    for events, watermark_ms in blocks_of(seed):
        expected = whole.append(events, watermark_ms)
        users = users_of(events)
        values, damaged = join([outside.get(user) for user in users.tolist()])
        assert not damaged.any()
        scratch.unpack(users, values)
        accepted = scratch.append(events, watermark_ms)
        assert np.array_equal(accepted.fresh_T, expected.fresh_T)
        assert np.array_equal(accepted.ordinal_T, expected.ordinal_T)
        outside.update(zip(users.tolist(), split(scratch.pack(users)), strict=True))
        scratch.forget(users)
        assert len(scratch) == 0
        for user in users.tolist():
            now_ms = watermark_ms - 3 * DAY_MS
            expected_of = whole.read(np.array([user]), TTL.capacity, now_ms)
            assert same(history_of(outside[user], TTL, now_ms), expected_of)


def test_a_value_shorter_than_the_rings_of_others_packs_to_the_same_bytes_again():
    make = np.random.default_rng(3)
    histories = LocalHistories(TTL)
    user_T = make.integers(0, 50, 3000)
    histories.append(
        Events(
            user_T, make.integers(0, 9, 3000), make.integers(0, 5, 3000),
            make.integers(DAY_MS, 2 * DAY_MS, 3000), make.integers(0, 2000, 3000),
        ),
        0,
    )  # fmt: skip
    users = np.arange(60)
    values = split(histories.pack(users))
    other = LocalHistories(TTL)
    other.unpack(users, join(values)[0])
    assert split(other.pack(users)) == values
    assert values[50:] == [b""] * 10


def test_a_smaller_capacity_keeps_the_last_events_and_their_ordinals():
    large, small = HistorySettings(capacity=256), HistorySettings(capacity=64)
    histories, other = LocalHistories(large), LocalHistories(small)
    at = np.arange(300)
    histories.append(Events(np.full(300, 7), at, at % 3, at + 1000, at + 1), 0)
    [value] = split(histories.pack(np.array([7])))
    other.unpack(np.array([7]), join([value])[0])
    found = other.read(np.array([7]), 64)
    assert found.item_T.tolist() == list(range(236, 300))
    assert found.count_B.tolist() == [300]
    assert same(history_of(value, small), found)


def test_the_bytes_are_what_the_formats_page_says():
    histories = LocalHistories(HistorySettings())
    one = [np.array([column]) for column in (7, 99, 3, 1_000_000, 12345)]
    histories.append(Events(*one), 0)
    values = histories.pack(np.array([7]))
    values.stamp(np.array([-5]), np.array([41]))
    [value] = split(values)
    words = [-5, 41, 1, 1_000_000, 12345, 99, 1_000_000 << 8 | 3]
    expected = b"Fh\x01\x00" + (1).to_bytes(2, "little") * 2
    expected += b"".join(word.to_bytes(8, "little", signed=True) for word in words)
    assert value == expected


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value[:-8],
        lambda value: value + b"\0" * 8,
        lambda value: b"XX" + value[2:],
        lambda value: value[:2] + b"\2" + value[3:],
        lambda value: value[:4] + b"\xff\xff" + value[6:],
        lambda value: value[:6] + b"\0\0" + value[8:],
        lambda value: value[: 3 * 8] + b"\0" * 8 + value[4 * 8 :],
        lambda value: value[:3],
    ],
)
def test_damaged_values_are_told_and_count_as_absent(spoil):
    histories = LocalHistories(TTL)
    at = np.arange(20)
    histories.append(Events(np.full(20, 7), at, at, at, np.full(20, 0)), 0)
    [value] = split(histories.pack(np.array([7])))
    values, damaged = join([value, spoil(value), None])
    assert damaged.tolist() == [False, True, False]
    assert np.diff(values.bounds).tolist() == [len(value) // 8, 0, 0]
    with pytest.raises(ValueDamaged, match="bytes beginning with"):
        history_of(spoil(value), TTL)


def test_what_is_erased_is_not_read_even_where_the_value_still_holds_it():
    histories = LocalHistories(TTL)
    at = np.arange(10)
    histories.append(Events(np.full(10, 7), at, at, 1000 * at, at * 0), 0)
    [value] = split(histories.pack(np.array([7])))
    some = history_of(value, TTL, erased_ms=6000)
    assert (some.item_T.tolist(), some.count_B.tolist()) == ([7, 8, 9], [3])
    assert history_of(value, TTL, erased_ms=9000).count_B.tolist() == [0]
    assert history_of(value, TTL, erased_ms=-1).count_B.tolist() == [10]


def test_the_last_ids_survive_although_their_events_are_gone():
    histories, other = LocalHistories(TTL), LocalHistories(TTL)
    first = np.arange(RECENT_IDS)
    zero = np.zeros(200, np.int64)
    histories.append(Events(first * 0 + 7, first, first * 0, first, first + 1), 0)
    histories.append(Events(zero + 7, zero, zero, zero + 100, zero), 0)
    values = histories.pack(np.array([7]))
    assert len(values.words) == HEADER + RECENT_IDS + 2 * TTL.capacity
    other.unpack(np.array([7]), values)
    again = Events(*(np.array([column]) for column in (7, 1, 1, 200, 1)))
    assert other.append(again, 0).duplicates == 1
