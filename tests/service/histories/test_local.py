"""Histories against the oracle of conftest.py, and what expiry promises."""

import math
from typing import Any

import numpy as np
import pytest

from service.histories.local import RECENT_IDS, Events, LocalHistories
from service.histories.settings import HistorySettings

DAY_MS = 86_400_000
TTL_MS = 10 * DAY_MS
SETTINGS = HistorySettings(ttl_seconds=TTL_MS / 1000, capacity=64)


def events_of(user: int, at_ms: list[int], ids: list[int] | None = None) -> Events:
    count = len(at_ms)
    return Events(
        np.full(count, user),
        np.arange(count),
        np.zeros(count, np.int64),
        np.array(at_ms, np.int64),
        np.array(ids if ids is not None else [0] * count, np.int64),
    )


@pytest.mark.parametrize("ttl_ms", [TTL_MS, None])
@pytest.mark.parametrize("seed", range(6))
def test_histories_are_what_the_oracle_holds(
    seed: int, ttl_ms: int | None, oracle_of: Any, blocks_of: Any, read: Any
) -> None:
    settings = HistorySettings(ttl_seconds=ttl_ms and ttl_ms / 1000, capacity=64)
    histories, oracle = LocalHistories(settings), oracle_of(ttl_ms, 64)
    make = np.random.default_rng(seed)
    restarts = duplicates = forgotten = longest = 0
    for events, watermark_ms in blocks_of(seed):
        ordinals, fresh = oracle.append(events, watermark_ms)
        accepted = histories.append(events, watermark_ms)
        assert accepted.ordinal_T.tolist() == ordinals
        assert accepted.fresh_T.tolist() == fresh
        assert accepted.events.item_T.tolist() == events.item_T[accepted.fresh_T].tolist()
        assert accepted.duplicates == fresh.count(False)
        longest = max([longest, *ordinals])
        duplicates, restarts = duplicates + fresh.count(False), restarts + ordinals.count(0)

        swept = histories.expire(watermark_ms, int(make.integers(0, 5))).tolist()
        assert set(swept) <= oracle.due(watermark_ms)
        assert len(set(swept)) == len(swept)
        forgotten += len(swept)
        for user in swept:
            del oracle.users[user]
        if make.random() < 0.2:
            gone = make.choice([5, *oracle.users], 2).tolist()
            histories.forget(np.array(gone))
            for user in gone:
                oracle.users.pop(user, None)

        most = int(make.integers(0, 100))
        for user, found in read(histories, most=most).items():
            assert found == oracle.read(user, most)
        assert len(histories) == len(oracle.users)
        assert histories.live_events == sum(min(64, len(u.events)) for u in oracle.users.values())
    assert duplicates > 50
    assert longest > 2 * 64
    assert ttl_ms is None or (restarts > len(oracle.users) and forgotten)


def test_the_place_of_the_sweep_changes_nothing_for_users_who_act(
    blocks_of: Any, read: Any
) -> None:
    for seed in range(4):
        swept = {budget: LocalHistories(SETTINGS) for budget in (0, 1, 10**6)}
        for events, watermark_ms in blocks_of(seed):
            told = []
            for budget, histories in swept.items():
                accepted = histories.append(events, watermark_ms)
                now = read(histories, np.unique(events.user_T))
                histories.expire(watermark_ms, budget)
                told.append((accepted.ordinal_T.tolist(), accepted.fresh_T.tolist(), now))
            assert told[0] == told[1] == told[2]
        assert len(swept[0]) > len(swept[10**6])


@pytest.mark.parametrize(("users", "budget"), [(1, 1), (10, 3), (100, 7), (7, 100)])
def test_a_user_is_gone_within_users_by_budget_blocks_after_the_time_to_live(
    users: int, budget: int
) -> None:
    histories = LocalHistories(SETTINGS)
    count = np.arange(users)
    histories.append(Events(count, count, 0 * count, DAY_MS + count, 0 * count), 0)
    for _ in range(5):
        assert not len(histories.expire(DAY_MS + TTL_MS, budget))
    keys = [
        key
        for _ in range(math.ceil(users / budget))
        for key in histories.expire(2 * DAY_MS + TTL_MS, budget).tolist()
    ]
    assert sorted(keys) == count.tolist()
    assert len(histories) == 0
    assert not len(histories.expire(10**15, budget))


@pytest.mark.parametrize("seed", range(3))
def test_nobody_stays_longer_than_the_bound_while_others_come_and_go(seed: int) -> None:
    draw, histories, budget = np.random.default_rng(seed), LocalHistories(SETTINGS), 3
    last_ms: dict[int, int] = {}
    overdue: dict[int, int] = {}  # calls of the sweep since the user's time has come
    at_once, latest = 0, 0
    for call in range(1500):
        now_ms = DAY_MS + call * TTL_MS // 100
        users = draw.integers(0, 150 + call, int(draw.integers(0, 3) * (1 + (call // 300) % 2)))
        histories.append(Events(users, users, 0 * users, now_ms + 0 * users, 0 * users), now_ms)
        for user in users.tolist():
            last_ms[user] = now_ms
            overdue.pop(user, None)
        at_once = max(at_once, len(histories))
        for user in [u for u, at_ms in last_ms.items() if now_ms - at_ms > TTL_MS]:
            overdue[user] = overdue.get(user, 0) + 1
        for user in histories.expire(now_ms, budget).tolist():
            latest = max(latest, overdue.pop(user))
            del last_ms[user]
        assert max(overdue.values(), default=0) < math.ceil(at_once / budget)
    assert latest > 0.8 * math.ceil(at_once / budget)


def test_nobody_is_forgotten_without_a_time_to_live() -> None:
    histories = LocalHistories(HistorySettings(ttl_seconds=None))
    histories.append(events_of(1, [5]), 0)
    assert not len(histories.expire(2**60, 100))
    assert histories.append(events_of(1, [2**40]), 2**60).ordinal_T.tolist() == [1]


def test_users_are_expired_on_request_each_once() -> None:
    histories = LocalHistories(SETTINGS)
    for user in (1, 2, 3):
        histories.append(events_of(user, [DAY_MS * user]), 0)
    asked = np.array([2, 9, 1, 1, 3])
    assert histories.expire_users(asked, 2 * DAY_MS + TTL_MS).tolist() == [1]
    assert histories.expire_users(asked, 2 * DAY_MS + TTL_MS + 1).tolist() == [2]
    assert len(histories) == 1


def test_a_gap_of_the_time_to_live_goes_on_and_a_longer_one_restarts(read: Any) -> None:
    histories = LocalHistories(SETTINGS)
    at_ms = [0, TTL_MS, 2 * TTL_MS + 1, TTL_MS, 3 * TTL_MS + 1]
    accepted = histories.append(events_of(1, at_ms), 0)
    assert accepted.ordinal_T.tolist() == [0, 1, 0, 1, 2]  # the late one does not set time back
    assert read(histories, np.array([1]))[1] == (3, [(t, 0, at_ms[t]) for t in (2, 3, 4)])


def test_an_id_counts_as_a_duplicate_among_the_last_64_and_as_new_beyond() -> None:
    for between, new in ((RECENT_IDS - 1, False), (RECENT_IDS, True)):
        histories = LocalHistories(SETTINGS)
        first = events_of(1, [DAY_MS] * (1 + between), [42, *range(1000, 1000 + between)])
        assert histories.append(first, 0).fresh_T.all()
        again = histories.append(events_of(1, [DAY_MS], [42]), 0)
        assert again.fresh_T.tolist() == [new]
        assert again.duplicates == (not new)


def test_a_duplicate_is_one_of_the_same_user_also_within_a_block() -> None:
    histories = LocalHistories(SETTINGS)
    users = np.array([1, 2, 1, 2, 1])
    events = Events(users, users, 0 * users, users, np.array([9, 9, 9, 8, 8]))
    accepted = histories.append(events, 0)
    assert accepted.fresh_T.tolist() == [True, True, False, True, True]
    assert accepted.ordinal_T.tolist() == [0, 0, 1, 1]


def test_events_without_an_id_are_never_duplicates() -> None:
    histories = LocalHistories(SETTINGS)
    assert histories.append(events_of(1, [5] * 200, [0] * 200), 0).fresh_T.all()
    assert histories.append(events_of(1, [5, 5], [3, 3]), 0).fresh_T.tolist() == [True, False]


def test_ids_are_forgotten_with_their_user_and_at_a_restart() -> None:
    histories = LocalHistories(SETTINGS)
    histories.append(events_of(1, [DAY_MS], [42]), 0)
    histories.forget(np.array([1]))
    assert histories.append(events_of(1, [DAY_MS], [42]), 0).fresh_T.tolist() == [True]
    later = histories.append(events_of(1, [2 * DAY_MS + TTL_MS], [42]), 0)
    assert later.ordinal_T.tolist() == [0]


def test_a_late_event_of_a_user_past_the_time_to_live_starts_anew_swept_or_not() -> None:
    histories = LocalHistories(SETTINGS)
    histories.append(events_of(1, [DAY_MS]), 0)
    accepted = histories.append(events_of(1, [DAY_MS + 5]), DAY_MS + TTL_MS + 1)
    assert accepted.ordinal_T.tolist() == [0]


def test_reading_strangers_and_nobody_and_nothing(read: Any) -> None:
    histories = LocalHistories(SETTINGS)
    assert read(histories, np.array([5, 6])) == {5: (0, []), 6: (0, [])}
    assert histories.read(np.zeros(0, np.int64), 10).offsets.tolist() == [0]
    assert len(histories.append(events_of(1, []), 0).events) == 0
    histories.append(events_of(1, [3, 4]), 0)
    assert read(histories, np.array([1, 5, 1]), most=1) == {1: (2, [(1, 0, 4)]), 5: (0, [])}
    assert read(histories, np.array([1]), most=0) == {1: (2, [])}


def test_forgotten_users_memory_is_used_again() -> None:
    histories, sizes = LocalHistories(SETTINGS), []
    for round_ in range(6):
        for user in range(3000 * round_, 3000 * (round_ + 1), 500):
            users = np.repeat(np.arange(user, user + 500), 40)
            count = np.arange(len(users))
            histories.append(Events(users, count, 0 * count, count, 1 + count), 0)
        sizes.append(histories.nbytes)
        histories.expire(2**50, 10**6)
        assert len(histories) == histories.live_events == 0
    assert sizes[0] > 3000 * 64 * 16
    assert sizes[1:] == sizes[1:2] * 5


def test_bytes_follow_the_events_kept() -> None:
    histories, users = LocalHistories(HistorySettings(capacity=512)), np.arange(100_000)
    histories.append(Events(users, users, 0 * users, users, 0 * users), 0)
    assert 100_000 * (8 * 16 + 64) < histories.nbytes < 100_000 * 320
    assert histories.nbytes < histories.charged_bytes + 2**23


@pytest.mark.parametrize(
    "wrong", [{"capacity": 100}, {"capacity": 32}, {"capacity": 2**15}, {"ttl_seconds": 0}]
)
def test_settings_that_no_history_can_have_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HistorySettings(**wrong)
