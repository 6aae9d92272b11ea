"""Streams of actions, as they are and with poison in them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.protocol import read_events
from service.blocks import Block
from service.commands.action_rows import Columns
from service.histories.local import Events
from service.histories.rings import Longs

HOUR_MS = 3_600_000
TARGETS, RATE, FLOOD_MS = 5, 5, HOUR_MS // 2
"""Of a flood: items, actions for each organic one, and how long it lasts."""
CLICK, HIDE = 0, 1


@dataclass(frozen=True, eq=False)
class Story:
    """T events in order of time, and when they lie."""

    name: str
    user_T: Longs
    item_T: Longs
    action_T: Longs
    at_ms_T: Longs
    poison_ms: tuple[int, int] = (0, 0)
    targets: tuple[int, ...] = ()
    first_bot: int = 2**62
    """Users from this one on are bots."""

    def __len__(self) -> int:
        return len(self.user_T)

    @property
    def hour(self) -> float:
        """Hours of event time before the poison."""
        return round(float(self.poison_ms[0] - self.at_ms_T[0]) / HOUR_MS, 2)

    def blocks(self, size: int) -> Iterator[Block]:
        """In full blocks; the watermark is the time of the last event."""
        none = np.zeros(size, np.int64)
        for first in range(0, len(self), size):
            part = slice(first, first + size)
            item_T = self.item_T[part]
            events = Events(self.user_T[part], item_T, self.action_T[part], self.at_ms_T[part],
                            none[: len(item_T)])  # fmt: skip
            yield Block(events, [None] * len(item_T), item_T.tolist(), [], [], {},
                        int(events.at_ms_T[-1]), len(item_T))  # fmt: skip


def clicks(path: Path, limit: int) -> Story:
    """The first clicks of a file."""
    events = read_events(path, Columns()).first(limit)
    return Story("clean", events.user_T, events.item_T, np.zeros(limit, np.int64), events.at_ms_T)


def told(name: str, clean: Story, at_hours: float) -> Story:
    """A story made of the clean one, with poison from some hours after its beginning."""
    first = int(clean.at_ms_T[0] + at_hours * HOUR_MS)
    rng = np.random.default_rng(1)
    match name:
        case "flipped" | "shuffled":
            item_T, last = clean.item_T.copy(), first + HOUR_MS
            hour_T = (clean.at_ms_T >= first) & (clean.at_ms_T < last)
            item_T[hour_T] = _permuted(item_T[hour_T], rng, name == "flipped")
            return replace(clean, name=name, item_T=item_T, poison_ms=(first, last))
        case "likes-flipped":
            hour_T = (clean.at_ms_T >= first) & (clean.at_ms_T < first + HOUR_MS)
            action_T = np.where(hour_T, 1 - clean.action_T, clean.action_T)
            return replace(clean, name=name, action_T=action_T, poison_ms=(first, first + HOUR_MS))
    return _flooded(name, clean, int(name.removeprefix("flood")), first, rng)


def camps(hours: float, rate: float, users: int = 400, items: int = 200) -> Story:
    """Two camps of users and of items: what is of their own they like, the rest they hide."""
    rng, count = np.random.default_rng(0), int(hours * 3600 * rate)
    user_T = rng.integers(users, size=count)
    item_T = (rng.zipf(1.3, size=count) * 7919 + rng.integers(2, size=count)) % items
    liked_T = (user_T + item_T) % 2 == 0
    liked_T ^= rng.random(count) < 0.1
    at_ms_T = 1_700_000_000_000 + np.sort(rng.integers(int(hours * HOUR_MS), size=count))
    return Story("likes", user_T, item_T, np.where(liked_T, CLICK, HIDE), at_ms_T)


def _permuted(item_T: Longs, rng: np.random.Generator, whole: bool) -> Longs:
    """Every item's clicks go to one other item (whole), or each click to a click's item."""
    if not whole:
        return rng.permutation(item_T)
    items, place_T = np.unique(item_T, return_inverse=True)
    return rng.permutation(items)[place_T]


def _flooded(name: str, clean: Story, bots: int, first: int, rng: np.random.Generator) -> Story:
    last = first + FLOOD_MS
    window_T = (clean.at_ms_T >= first) & (clean.at_ms_T < last)
    items, times = np.unique(clean.item_T[clean.at_ms_T < first], return_counts=True)
    targets = rng.choice(items[times <= np.median(times)], TARGETS, replace=False)
    count = RATE * int(window_T.sum())
    flood = (
        clean.user_T.max() + 1 + rng.integers(bots, size=count),
        rng.choice(targets, count),
        np.zeros(count, np.int64),
        rng.integers(first, last, size=count),
    )
    organic = (clean.user_T, clean.item_T, clean.action_T, clean.at_ms_T)
    columns = [np.concatenate(pair) for pair in zip(organic, flood, strict=True)]
    order = np.argsort(columns[3], kind="stable")
    user_T, item_T, action_T, at_ms_T = (column[order] for column in columns)
    return Story(name, user_T, item_T, action_T, at_ms_T, (first, last), tuple(targets.tolist()),
                 int(clean.user_T.max()) + 1)  # fmt: skip


def within(story: Story, span_ms: tuple[int, int]) -> int:
    """How many events of a story lie in a span."""
    return int(((story.at_ms_T >= span_ms[0]) & (story.at_ms_T < span_ms[1])).sum())
