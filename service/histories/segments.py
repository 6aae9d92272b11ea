"""Histories inside versions: segments of what was appended since the version before.

A segment is never rewritten. Restoring reads all segments of a version in order. Full runs of
small segments are merged into larger ones (eight of a size into one of the next, like the carry of
a counter), so that n versions need about 8 log8(n) files; a merge keeps only what a ring can hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from service.histories.local import Events, LocalHistories
from service.histories.rings import Longs

MERGE = 8
FIELDS = ("user", "item", "action", "at_ms", "id", "ordinal", "forgotten")


@dataclass(frozen=True)
class Segment:
    """Events in the order of their acceptance, and users forgotten by the end of them."""

    events: Events
    ordinal_T: Longs
    forgotten: Longs

    def to_tensors(self) -> dict[str, Tensor]:
        """As a version stores it: seven int64 columns."""
        e = self.events
        columns = (
            e.user_T,
            e.item_T,
            e.action_T,
            e.at_ms_T,
            e.id_T,
            self.ordinal_T,
            self.forgotten,
        )
        return {
            name: torch.from_numpy(np.ascontiguousarray(column))
            for name, column in zip(FIELDS, columns, strict=True)
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Segment":
        """The segment that returned `tensors`."""
        *events, ordinal_T, forgotten = (tensors[name].numpy() for name in FIELDS)
        return cls(Events(*events), ordinal_T, forgotten)

    def restore(self, histories: LocalHistories) -> None:
        """Add the segment to histories that hold everything before it."""
        histories.restore(self.events, self.ordinal_T)
        histories.forget(self.forgotten)


class SegmentLog:
    """What was appended and forgotten since the last segment was taken."""

    def __init__(self) -> None:
        self._parts: list[Segment] = []

    def append(self, events: Events, ordinal_T: Longs, forgotten: Longs) -> None:
        """Note one block's accepted events and the users forgotten after it."""
        self._parts.append(Segment(events, ordinal_T, forgotten))

    def take(self) -> Segment:
        """Everything noted so far as one segment; the log starts anew."""
        parts, self._parts = self._parts, []
        return concatenated(parts)


def concatenated(parts: Sequence[Segment]) -> Segment:
    """Consecutive segments as one.

    A user forgotten in an earlier part who came back in a later one restarts there with ordinal 0,
    so only the forgotten who stayed away have to be named.
    """
    events = Events(
        *(_joined(parts, name) for name in ("user_T", "item_T", "action_T", "at_ms_T", "id_T"))
    )
    ordinal_T = np.concatenate([p.ordinal_T for p in parts] or [np.zeros(0, np.int64)])
    gone: dict[int, None] = {}
    for part in parts:
        for user in np.unique(part.events.user_T).tolist() if gone else ():
            gone.pop(user, None)
        gone.update(dict.fromkeys(part.forgotten.tolist()))
    return Segment(events, ordinal_T, np.array(list(gone), np.int64))


def compacted(segment: Segment, capacity: int) -> Segment:
    """Without events that no ring of `capacity` can still hold, nor those of forgotten users."""
    users, owner_T = np.unique(segment.events.user_T, return_inverse=True)
    newest = np.full(len(users), -1, np.int64)
    newest[owner_T] = segment.ordinal_T  # the last write wins: ordinals only fall at a restart
    restart = np.zeros(len(users), np.int64)
    at_T = np.arange(len(owner_T))
    np.maximum.at(restart, owner_T, np.where(segment.ordinal_T == 0, at_T, 0))
    kept_T = (segment.ordinal_T > newest[owner_T] - capacity) & (at_T >= restart[owner_T])
    kept_T &= ~np.isin(segment.events.user_T, segment.forgotten)
    return Segment(segment.events.where(kept_T), segment.ordinal_T[kept_T], segment.forgotten)


def _joined(parts: Sequence[Segment], name: str) -> Longs:
    return np.concatenate([getattr(p.events, name) for p in parts] or [np.zeros(0, np.int64)])
