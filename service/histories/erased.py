"""Erased users: whose events up to a time count as if they had never been.

Whether an event is erased depends on its user and its event time alone, so that the trainer, every
server and a reader who begins again at the earliest record agree, whenever they hear of it. What a
person does later is kept like anyone's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.histories.leaving import Flags
from service.histories.local import Events, LocalHistories
from service.histories.rings import Longs
from service.histories.segments import Segment, compacted, concatenated


@dataclass(frozen=True)
class Erased:
    """M erased users, ascending by key, and the event time up to which each is erased."""

    user_M: Longs
    before_ms_M: Longs

    @classmethod
    def of(cls, erased: Mapping[int, int]) -> "Erased":
        """From user keys and times, as `Decisions.erased` has them."""
        user_M, before_ms_M = (
            np.fromiter(column, np.int64, len(erased))
            for column in (erased.keys(), erased.values())
        )
        order = np.argsort(user_M)
        return cls(user_M[order], before_ms_M[order])

    def __len__(self) -> int:
        return len(self.user_M)

    def covers(self, user_T: Longs, at_ms_T: Longs) -> Flags:
        """Which of T events are erased."""
        if not len(self):
            return np.zeros(len(user_T), np.bool_)
        place_T = np.searchsorted(self.user_M, user_T).clip(max=len(self) - 1)
        covered_T: Flags = (self.user_M[place_T] == user_T) & (at_ms_T <= self.before_ms_M[place_T])
        return covered_T

    def since(self, known: "Erased") -> "Erased":
        """Those of these users who are not erased as far in `known`."""
        new_M = ~known.covers(self.user_M, self.before_ms_M)
        return Erased(self.user_M[new_M], self.before_ms_M[new_M])


def erase_from(histories: LocalHistories, erased: Erased) -> Segment:
    """Drop what is erased from histories; repeated, it changes nothing.

    A user who did something later keeps those events, as if they were the first; their ids no
    longer tell duplicates. Returns what followers of the histories have to restore to do the same.
    """
    held = histories.read(erased.user_M, histories.settings.capacity)
    user_T = np.repeat(erased.user_M, np.diff(held.offsets))
    gone_T = erased.covers(user_T, held.at_ms_T)
    touched = np.unique(user_T[gone_T])
    events = Events(user_T, held.item_T, held.action_T, held.at_ms_T, np.zeros_like(user_T))
    kept = events.where(~gone_T & np.isin(user_T, touched))
    _, first, owner_T = np.unique(kept.user_T, return_index=True, return_inverse=True)
    ordinal_T: Longs = np.arange(len(kept)) - first[owner_T]
    histories.forget(touched)
    histories.restore(kept, ordinal_T)
    return Segment(kept, ordinal_T, np.setdiff1d(touched, kept.user_T))


def without(segments: Sequence[Segment], erased: Erased, capacity: int) -> Segment:
    """All segments of a version as one that begins anew and holds nothing of what is erased.

    They must include what `erase_from` returned. Nobody is named as forgotten, for nothing comes
    before it. capacity: of the histories, in events per user.
    """
    one = compacted(concatenated(segments), capacity)
    kept_T = ~erased.covers(one.events.user_T, one.events.at_ms_T)
    return Segment(one.events.where(kept_T), one.ordinal_T[kept_T], np.zeros(0, np.int64))
