"""Training examples against a slow oracle that follows one user's events one by one."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from service.histories.local import Events, LocalHistories
from service.histories.settings import HistorySettings
from service.model.hstu import window_start
from service.store import Budget
from service.store.settings import CapSettings
from trainer.examples import Batch, batches

Event = tuple[int, int, int]
"""Item, action, time."""


@dataclass
class Life:
    """All events of a user since its history (re)started."""

    events: list[Event] = field(default_factory=list)

    def sees(self, window: int) -> tuple[list[Event], list[int]]:
        """What a query after the last event sees, and the time before each of those events."""
        last = len(self.events) - 1
        start = window_start(last, window) if self.events else 0
        before = [self.events[i - 1][2] if i else -1 for i in range(start, last + 1)]
        return self.events[start:], before


class Oracle:
    """Follows the stream event by event."""

    def __init__(self, window: int, ttl_ms: int) -> None:
        self.window, self.ttl_ms = window, ttl_ms
        self.lives: dict[int, Life] = {}
        self.last_ms: dict[int, int] = {}

    def expect(self, user: int, event: Event) -> tuple[list[Event], list[int]]:
        if event[2] - self.last_ms.get(user, event[2]) > self.ttl_ms:
            del self.lives[user]
        life = self.lives.setdefault(user, Life())
        seen = life.sees(self.window)
        life.events.append(event)
        self.last_ms[user] = max(self.last_ms.get(user, 0), event[2])
        return seen


def random_events(draw: np.random.Generator, count: int, users: int, now_ms: int) -> Events:
    # mostly seconds apart, sometimes an hour: longer than the histories' time-to-live
    gaps = np.where(draw.random(count) < 0.03, 3_600_000, draw.integers(0, 2000, count))
    return Events(
        draw.integers(1, users + 1, count), draw.integers(1, 50, count),
        draw.integers(0, 3, count), now_ms + np.cumsum(gaps), np.zeros(count, np.int64),
    )  # fmt: skip


def cut(
    histories: LocalHistories, events: Events, positive_T: np.ndarray, window: int, budget: int
) -> list[Batch]:
    users = list(dict.fromkeys(events.user_T.tolist()))
    number = {user: n for n, user in enumerate(users)}
    context = histories.read(np.array(users, np.int64), window + 1)
    accepted = histories.append(events, watermark_ms=0)
    user_of_T = np.array([number[user] for user in events.user_T.tolist()], np.int64)
    steps = batches(context, user_of_T, accepted, positive_T, window, budget)
    return [part for parts in steps for part in parts]


def rows_of(batch: Batch) -> list[tuple[int, int, list[Event], list[int], int, int]]:
    """Each query row: event, truth, what it sees, times before, its time and position."""
    found = []
    seen, queries = batch.seen, batch.queries
    columns = zip(
        seen.item_E.tolist(), seen.action_E.tolist(), seen.events.at_ms.tolist(), strict=True
    )
    events, before = list(columns), seen.before_ms_E.tolist()
    for b, first in enumerate(seen.events.offsets[:-1].tolist()):
        for q in range(int(queries.offsets[b]), int(queries.offsets[b + 1])):
            end = first + int(queries.limit[q])
            assert end <= seen.events.offsets[b + 1], "a row sees into its neighbour"
            found.append((
                int(batch.event_Q[q]), int(batch.truth_Q[q]), events[first:end],
                before[first:end], int(queries.at_ms[q]), int(queries.position[q]),
            ))  # fmt: skip
    return found


@pytest.mark.parametrize("window", [4, 8, 16, 32])
def test_every_positive_is_asked_once_and_sees_what_serving_would_show_it(window: int) -> None:
    draw, ttl_ms = np.random.default_rng(window), 600_000
    histories = LocalHistories(HistorySettings(ttl_seconds=ttl_ms / 1000, capacity=64))
    oracle, now_ms = Oracle(window, ttl_ms), 1_000_000
    for size in [0, 1, 7, *draw.integers(1, 150, 25).tolist(), 400]:
        events = random_events(draw, size, users=5, now_ms=now_ms)
        now_ms = int(events.at_ms_T.max(initial=now_ms))
        positive_T = draw.random(size) < 0.7
        expected = {}
        for t in range(size):
            event = (int(events.item_T[t]), int(events.action_T[t]), int(events.at_ms_T[t]))
            seen, before = oracle.expect(int(events.user_T[t]), event)
            if positive_T[t]:
                expected[t] = (t, event[0], seen, before, event[2], len(seen))
        made = cut(histories, events, positive_T, window, budget=200)
        found = [row for batch in made for row in rows_of(batch)]
        assert sorted(row[0] for row in found) == list(expected)
        assert {row[0]: row for row in found} == expected


def one_user(count: int) -> tuple[LocalHistories, Events]:
    column = np.arange(count)
    events = Events(
        np.ones(count, np.int64), column + 100, column * 0, column * 1000, column * 0
    )  # fmt: skip
    return LocalHistories(HistorySettings(ttl_seconds=None, capacity=64)), events


def test_an_example_is_split_where_the_window_moves() -> None:
    histories, events = one_user(14)
    (batch,) = cut(histories, events, np.ones(14, np.bool_), window=8, budget=10_000)
    starts = [window_start(o - 1, 8) for o in range(14)]
    assert batch.queries.offsets.diff().tolist() == list(Counter(starts).values())


def test_an_example_ends_with_what_its_last_query_sees() -> None:
    histories, events = one_user(6)
    positive_T = np.array([1, 0, 1, 0, 0, 0], np.bool_)
    (batch,) = cut(histories, events, positive_T, window=8, budget=10_000)
    assert batch.queries.limit.tolist() == [0, 2]
    assert batch.seen.item_E.tolist() == [100, 101]


def test_a_history_kept_short_for_lack_of_memory_loses_no_example() -> None:
    """The ring holds 8 events where the window would show 16: every query sees what is there."""
    limit = CapSettings(max_bytes=134 + 240 + 8, when_full="refuse")
    histories = LocalHistories(HistorySettings(ttl_seconds=None, capacity=64), Budget(limit))
    _, events = one_user(40)
    asked = []
    for first in range(0, 40, 4):
        part = Events(*(column[first : first + 4] for column in vars(events).values()))
        for batch in cut(histories, part, np.ones(4, np.bool_), window=16, budget=10_000):
            asked += [first + event for event, *_ in rows_of(batch)]
            assert int(batch.queries.limit.max()) <= 8 + 3
    assert asked == list(range(40))
    assert histories.shortened > 0


def test_a_block_without_positives_makes_no_batch() -> None:
    histories, events = one_user(6)
    assert cut(histories, events, np.zeros(6, np.bool_), window=8, budget=100) == []


@pytest.mark.parametrize("budget", [1, 64, 100, 10_000])
def test_batches_respect_the_row_budget_and_hold_one_example_at_least(budget: int) -> None:
    draw = np.random.default_rng(3)
    histories = LocalHistories(HistorySettings(ttl_seconds=None, capacity=64))
    events = random_events(draw, 500, users=9, now_ms=0)
    made = cut(histories, events, np.ones(500, np.bool_), window=8, budget=budget)
    for batch in made:
        rows = len(batch.seen.item_E) + len(batch.truth_Q)
        assert rows <= budget or len(batch.queries.offsets) == 2
    asked = torch.cat([batch.event_Q for batch in made])
    assert sorted(asked.tolist()) == list(range(500))
    if budget == 10_000:
        assert len(made) == 1
