"""Impressions joined with the actions that followed them, in event time.

An impression stays open for `join_seconds` of event time. An action that names its request labels
the item it acted on; when the watermark passes the end, every shown item becomes a target with its
labels. A later impression of the same request (what was really shown) replaces the earlier. An
action whose impression never comes is an orphan: counted, and still part of the history.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress

import msgspec
import numpy as np
import torch
from torch import Tensor

from service.actions import Impression, key_of
from service.histories.erased import Erased
from service.histories.local import Events

MOST_EVENTS = 2**40
"""More than any user has. A producer may have written anything."""


class Open(msgspec.Struct):
    """One request that still waits: keys of the shown items, and action codes by item key."""

    at_ms: int
    user: int = 0
    items: list[int] = msgspec.field(default_factory=list)
    history: int | None = None
    acted: dict[int, int] = msgspec.field(default_factory=dict)
    """Bit a is set where action code a followed."""


@dataclass
class Joiner:
    """All open requests, by request id, in order of arrival."""

    join_ms: int
    open: dict[str, Open] = field(default_factory=dict)
    orphans: int = 0

    def shown(self, impressions: Sequence[Impression]) -> None:
        """Open (or replace) the requests of a block's impressions."""
        for impression in impressions:
            entry = self.open.setdefault(impression.request, Open(0))
            entry.at_ms = round(impression.at * 1000)
            entry.user = key_of(impression.user)
            entry.items = [key_of(item) for item in impression.items]
            entry.history = _believable(impression.history)

    def acted(self, events: Events, requests: Sequence[str | None]) -> None:
        """Label the shown items that a block's actions name."""
        for t, request in enumerate(requests):
            if request is not None:
                first = Open(int(events.at_ms_T[t]), int(events.user_T[t]))
                entry = self.open.setdefault(request, first)
                item, bit = int(events.item_T[t]), 1 << int(events.action_T[t])
                entry.acted[item] = entry.acted.get(item, 0) | bit

    def close(self, watermark_ms: int) -> list[Open]:
        """Requests whose time is over, in order of arrival; they are open no longer."""
        due = [r for r, entry in self.open.items() if entry.at_ms + self.join_ms <= watermark_ms]
        closed = [self.open.pop(request) for request in due]
        self.orphans += sum(not entry.items for entry in closed)
        return [entry for entry in closed if entry.items]

    def erase(self, erased: Erased) -> None:
        """Drop the open requests of erased users."""
        told = [(entry.user, entry.at_ms) for entry in self.open.values()]
        user_N, at_ms_N = np.array(told, np.int64).reshape(-1, 2).T
        self.open = dict(compress(self.open.items(), ~erased.covers(user_N, at_ms_N)))

    def state(self) -> dict[str, Tensor]:
        """Everything that later results depend on."""
        data = msgspec.msgpack.encode((self.open, self.orphans))
        return {"open": torch.from_numpy(np.frombuffer(data, np.uint8).copy())}

    def load(self, state: dict[str, Tensor]) -> None:
        """Become the joiner that returned `state`."""
        kind = tuple[dict[str, Open], int]
        self.open, self.orphans = msgspec.msgpack.decode(state["open"].numpy().tobytes(), type=kind)


def _believable(history: int | None) -> int | None:
    """How many events a scoring saw, unless it says what no scoring could have seen."""
    return history if history is not None and 0 <= history < MOST_EVENTS else None
