"""Histories in plain Python, and streams of events chosen to hurt."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from service.histories.local import RECENT_IDS, Events, LocalHistories

DAY_MS = 86_400_000
USERS = np.array([7, -3, 2**63 - 1, -(2**63) + 1, *range(100, 124)])


@dataclass
class User:
    events: list[tuple[int, int, int]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    last_ms: int = 0


class Oracle:
    """What LocalHistories promises: one list per user, event by event."""

    def __init__(self, ttl_ms: int | None, capacity: int) -> None:
        self.ttl_ms = math.inf if ttl_ms is None else ttl_ms
        self.capacity = capacity
        self.users: dict[int, User] = {}

    def append(self, events: Events, watermark_ms: int) -> tuple[list[int], list[bool]]:
        """Ordinals of the fresh events, and which are fresh."""
        for user in set(events.user_T.tolist()) & self.due(watermark_ms):
            del self.users[user]
        ordinals, fresh = [], []
        columns = (events.user_T, events.item_T, events.action_T, events.at_ms_T, events.id_T)
        for user, item, action, at_ms, name in zip(*(c.tolist() for c in columns), strict=True):
            held = self.users.get(user)
            if held is None or at_ms - held.last_ms > self.ttl_ms:
                held = self.users[user] = User()
            fresh.append(name == 0 or name not in held.ids[-RECENT_IDS:])
            if not fresh[-1]:
                continue
            if name:
                held.ids.append(name)
            ordinals.append(len(held.events))
            held.events.append((item, action, at_ms))
            held.last_ms = max(held.last_ms, at_ms)
        return ordinals, fresh

    def due(self, watermark_ms: int) -> set[int]:
        return {
            user for user, held in self.users.items() if watermark_ms - held.last_ms > self.ttl_ms
        }

    def read(self, user: int, most: int) -> tuple[int, list[tuple[int, int, int]]]:
        """Number of events so far, and the last ones."""
        held = self.users.get(user, User())
        return len(held.events), held.events[-self.capacity :][-most:] if most else []


Read = Callable[..., dict[int, tuple[int, list[tuple[int, int, int]]]]]
Blocks = Callable[..., list[tuple[Events, int]]]


@pytest.fixture(scope="session")
def oracle_of() -> type[Oracle]:
    return Oracle


@pytest.fixture(scope="session")
def read() -> Read:
    """What a read of these users returns, as the oracle says it."""

    def by_user(
        histories: LocalHistories, users: np.ndarray = USERS, most: int = 10**6
    ) -> dict[int, tuple[int, list[tuple[int, int, int]]]]:
        found = histories.read(users, most)
        events = list(
            zip(*(c.tolist() for c in (found.item_T, found.action_T, found.at_ms_T)), strict=True)
        )
        first, last = found.offsets[:-1].tolist(), found.offsets[1:].tolist()
        return {
            user: (count, events[a:b])
            for user, count, a, b in zip(
                users.tolist(), found.count_B.tolist(), first, last, strict=True
            )
        }

    return by_user


@pytest.fixture(scope="session")
def blocks_of() -> Blocks:
    """Blocks of events with their watermarks.

    Few users have most events; some pause for longer than 10 days, some events are late by as
    much, ids repeat at all distances and many events have none.
    """

    def build(seed: int, blocks: int = 60, size: int = 60) -> list[tuple[Events, int]]:
        make = np.random.default_rng([seed, 77])
        made, now_ms, watermark_ms = [], 400 * DAY_MS, 0
        recent = make.integers(1, 2**62, 4000)
        for number in range(blocks):
            count = int(make.integers(0, size))
            asleep = make.random(len(USERS)) < 0.5 if number % 7 else np.ones(len(USERS), bool)
            awake = USERS[~asleep] if (~asleep).any() else USERS[:2]
            user = awake[(make.random(count) ** 4 * len(awake)).astype(int)]
            steps = np.where(make.random(count) < 0.02, 4 * DAY_MS, 60_000) * make.random(count)
            at_ms = now_ms + np.cumsum(steps).astype(np.int64)
            late = np.where(make.random(count) < 0.1, 25 * DAY_MS * make.random(count), 0)
            name = recent[(number * 20 + make.integers(0, 80, count)) % len(recent)]
            name[make.random(count) < 0.5] = 0
            made_events = Events(
                user, make.integers(-(2**63), 2**63, count), make.integers(0, 256, count),
                at_ms - late.astype(np.int64), name,
            )  # fmt: skip
            now_ms = int(at_ms.max(initial=now_ms)) + int(DAY_MS * make.random())
            watermark_ms = max(watermark_ms, int(made_events.at_ms_T.max(initial=0)))
            made.append((made_events, watermark_ms))
        return made

    return build
