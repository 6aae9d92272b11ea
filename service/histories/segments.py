"""Histories inside versions: segments of what was appended since the version before.

A segment is never rewritten. Restoring reads all segments of a version in order. Full runs of
small segments are merged into larger ones (eight of a size into one of the next, like the carry of
a counter), so that n versions need about 8 log8(n) files; a merge keeps only what histories are
made of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kernels.key_index import key_index
from service.histories.local import RECENT_IDS, Events, Fresh, LocalHistories
from service.histories.rings import Longs

if TYPE_CHECKING:
    from service.versions import Manifest, VersionDirectory

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
    """Without events that histories of `capacity` would not miss, nor those of forgotten users.

    Kept are, of each user since the last restart: the event that restarts, those that the ring
    still holds, the last ones with an id (duplicates are told by them), and the latest in event
    time (the time-to-live is counted from it).
    """
    events, ordinal_T = segment.events, segment.ordinal_T
    users = key_index("numba")
    owner_T: Longs = users.insert(torch.from_numpy(events.user_T))[0].numpy()
    newest, restart = np.zeros((2, len(users)), np.int64)
    newest[owner_T] = ordinal_T  # the last write wins: ordinals only fall at a restart
    at_T = np.arange(len(owner_T))
    np.maximum.at(restart, owner_T, np.where(ordinal_T == 0, at_T, 0))
    since_T = at_T >= restart[owner_T]
    kept_T: Fresh = (ordinal_T > newest[owner_T] - capacity) | (ordinal_T == 0)
    long_T = since_T & (newest[owner_T] >= capacity)  # of others the ring holds every event
    kept_T[_last(owner_T, at_T, long_T & (events.id_T != 0), RECENT_IDS)] = True
    kept_T[_last(owner_T, events.at_ms_T, long_T, 1)] = True
    kept_T &= since_T & ~np.isin(events.user_T, segment.forgotten)
    return Segment(events.where(kept_T), ordinal_T[kept_T], segment.forgotten)


def segments_of(directory: "VersionDirectory", manifest: "Manifest") -> list[Segment]:
    """The segments of a version, in the order in which they restore. Raises VersionError naming
    the file that is missing or damaged."""
    return [
        Segment.from_tensors(directory.open(manifest, name).tensors) for name in manifest.histories
    ]


def _last(owner_T: Longs, by_T: Longs, among_T: Fresh, most: int) -> Longs:
    """Indices of each owner's `most` largest among some; of equals the later ones."""
    among = np.flatnonzero(among_T)
    order = among[np.lexsort((by_T[among], owner_T[among]))]
    ends = np.cumsum(np.bincount(owner_T[order]))
    return order[ends[owner_T[order]] - np.arange(len(order)) <= most]


def _joined(parts: Sequence[Segment], name: str) -> Longs:
    return np.concatenate([getattr(p.events, name) for p in parts] or [np.zeros(0, np.int64)])
