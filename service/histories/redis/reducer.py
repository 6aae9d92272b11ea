"""New values from old ones: LocalHistories' own code on histories that lie elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xxhash

from service.blocks import Block
from service.histories.erased import Erased, erase_from
from service.histories.leaving import Flags
from service.histories.local import Events, LocalHistories
from service.histories.packing import POSITION, SOURCE, Packed
from service.histories.redis.values import join, split
from service.histories.rings import Longs
from service.histories.settings import HistorySettings

_NONE: Flags = np.zeros(0, np.bool_)

SEEDED = 0
"""Source of a value that was made from a version: whatever the log says after it is new."""


def source_of(topic_id: str, partition: int) -> int:
    """The number by which values name a partition of one topic."""
    digest = xxhash.xxh3_64_intdigest(f"{topic_id}:{partition}".encode())
    return (digest >> 1) or 1


@dataclass(frozen=True)
class Placed:
    """T events of any users in stream order, with where they stood in the log."""

    events: Events
    source_T: Longs
    offset_T: Longs
    watermark_ms: int

    @classmethod
    def of(cls, block: Block, source_P: Longs) -> "Placed":
        """A block's; `source_P` numbers the partitions."""
        places = block.places
        source_T = source_P[places.partition_T]
        return cls(block.events, source_T, places.offset_T, block.watermark_ms)

    @property
    def users(self) -> Longs:
        """Each user once."""
        return np.unique(self.events.user_T)

    def where(self, kept_T: Flags) -> "Placed":
        """The events whose flag is set."""
        return replace(
            self,
            events=self.events.where(kept_T),
            source_T=self.source_T[kept_T],
            offset_T=self.offset_T[kept_T],
        )


@dataclass(frozen=True)
class Changed:
    """What became of M users' values."""

    changed_M: Flags
    values: list[bytes]
    """Of the users whose value changed, in their order; empty where nothing is left."""
    known_T: Flags
    """Of the events handed in, which the values contained already."""
    duplicate_T: Flags
    damaged: int
    """Values that could not be read; their users begin anew."""


class Reducer:
    """Works on a few users at a time, and keeps nothing of them. One thread at a time."""

    def __init__(self, settings: HistorySettings) -> None:
        self._settings = settings
        self._scratch = LocalHistories(settings)

    def append(self, users: Longs, old: Sequence[bytes | None], placed: Placed) -> Changed:
        """Values after those of the events that they do not contain yet.

        users: whose the events are, each once, ascending; old: their values.
        """
        values, damaged_M = join(old)
        source_M, position_M = values.field(SOURCE), values.field(POSITION)
        owner_T = np.searchsorted(users, placed.events.user_T)
        known_T = (placed.source_T == source_M[owner_T]) & (placed.offset_T < position_M[owner_T])
        new, new_owner_T = placed.where(~known_T), owner_T[~known_T]
        source_M[new_owner_T] = new.source_T  # the last write wins: offsets ascend
        position_M[new_owner_T] = new.offset_T + 1
        changed_M = np.zeros(len(users), np.bool_)
        changed_M[new_owner_T] = True
        self._scratch.unpack(users, values)
        accepted = self._scratch.append(new.events, placed.watermark_ms)
        made = self._taken(users, changed_M, source_M, position_M)
        duplicate_T = np.zeros(len(known_T), np.bool_)
        duplicate_T[~known_T] = ~accepted.fresh_T
        return Changed(changed_M, made, known_T, duplicate_T, int(damaged_M.sum()))

    def erase(self, users: Longs, old: Sequence[bytes | None], erased: Erased) -> Changed:
        """Values without what is erased, as `erase_from` leaves it."""
        values, damaged_M = join(old)
        self._scratch.unpack(users, values)
        touched = erase_from(self._scratch, erased)
        touched_M = np.isin(users, np.union1d(touched.events.user_T, touched.forgotten))
        made = self._taken(users, touched_M, values.field(SOURCE), values.field(POSITION))
        return Changed(touched_M, made, _NONE, _NONE, int(damaged_M.sum()))

    def _taken(
        self, users: Longs, changed_M: Flags, source_M: Longs, position_M: Longs
    ) -> list[bytes]:
        """The changed users' values; the scratch is empty again."""
        values: Packed = self._scratch.pack(users[changed_M])
        values.stamp(source_M[changed_M], position_M[changed_M])
        self._scratch.forget(users)
        return split(values)
