"""Which bias every pair of a row and an event has, as entries of tables."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from kernels.attention.buckets import TIME_BUCKETS, distance_bucket, time_bucket
from kernels.attention.cpu.vectors import LANES, address, whole
from kernels.attention.cpu.weights import time_buckets

if TYPE_CHECKING:
    from kernels.attention import Events, Rows

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

FARTHEST = 8191
"""Distances from this one on share a bucket."""
PART = 16_384
"""Pairs of users whose bias gradients are summed together; threads share out such parts."""


class Pairs:
    """The visible pairs of rows and events, for every layer that sees them.

    distance_entry: int64 [F], the entry of the distance table that distance d reads; the last is
        read from F - 1 on.
    time_entry: entries (0 .. 255) of the time table from gaps in milliseconds, int64 [n]; None
        where times play no part.

    Raises ValueError for columns that are not int64 or do not fit together.
    """

    def __init__(
        self,
        rows: "Rows",
        events: "Events",
        distance_entry: Tensor,
        time_entry: Callable[[Tensor], Tensor] | None,
    ) -> None:
        layout = rows.offsets, rows.position, rows.limit, rows.at_ms, events.offsets, events.at_ms
        _check(*layout)
        self.events = len(events.at_ms)
        self.row_ends, position, self.limit, at_ms, self.event_ends, event_at_ms = (
            t.contiguous().numpy() for t in layout
        )
        self.starts = np.empty(len(self.limit), np.int64)
        """Where in `entries` a row's pairs begin; a row like the one before it shares them."""
        cuts = np.empty(len(self.row_ends) + 1, np.int64)
        self.count, self.most, parts = _plan(
            self.row_ends, position, self.limit, at_ms, self.event_ends, self.starts, cuts
        )
        self.cuts = cuts[: parts + 1]
        """Part p has users cuts[p] .. cuts[p + 1] - 1."""
        self.position = np.clip(position, 0, len(distance_entry) + self.most)
        self.nearest = int(self.position.max(initial=0))
        """Distances are laid out from this one down to 0, which is then repeated."""
        self.distance_entry = distance_entry.numpy()
        self.distances = int(self.distance_entry.max()) + 1
        """Entries that the distance table must have."""
        places = [self.row_ends, self.limit, at_ms, self.event_ends, event_at_ms, self.starts]
        self.entries, self.times = self._entries(places, time_entry)
        """Entry of the time table for each pair, rows filled up to whole vectors; how many entries
        that table must have."""

    def _entries(
        self, places: list[Any], time_entry: Callable[[Tensor], Tensor] | None
    ) -> tuple[Bytes, int]:
        if time_entry is None:
            return np.empty(0, np.uint8), 0
        if time_entry is time_bucket:
            entries = np.empty(self.count, np.uint8)
            places.append(entries)
            _fill_buckets(*places)
            return entries, TIME_BUCKETS
        gaps = np.zeros(self.count, np.int64)
        places.append(gaps)
        _fill_gaps(*places)
        found = time_entry(torch.from_numpy(gaps)).numpy()
        least, most = int(found.min(initial=0)), int(found.max(initial=0))
        if least < 0 or most > 255:
            raise ValueError(f"time_entry gave {least} .. {most}; entries are numbers 0 .. 255")
        return found.astype(np.uint8), most + 1

    def by_distance(self, table: Tensor) -> Floats:
        """The table's entries laid out so that a row at position p reads `nearest - p` on."""
        spread = np.empty(self.nearest + self.most + 2 * LANES, np.float32)
        _spread(table.detach().numpy(), self.distance_entry, self.nearest, spread)
        return spread

    def to_table(self, grads: Tensor, entries: int) -> Tensor:
        """Gradients of the table from those of `by_distance`, one row for each part."""
        table = torch.zeros(entries)
        _fold(grads.numpy(), self.distance_entry, self.nearest, table.numpy())
        return table


def _check(
    row_ends: Tensor, position: Tensor, limit: Tensor, at_ms: Tensor, event_ends: Tensor,
    event_at_ms: Tensor,
) -> None:  # fmt: skip
    columns = {
        "rows.offsets": row_ends, "rows.position": position, "rows.limit": limit,
        "rows.at_ms": at_ms, "events.offsets": event_ends, "events.at_ms": event_at_ms,
    }  # fmt: skip
    for name, column in columns.items():
        if column.dtype != torch.int64 or column.ndim != 1:
            raise ValueError(f"{name} is {column.dtype} {list(column.shape)}, not int64 numbers")
    wanted = {
        "rows.position": len(limit), "rows.at_ms": len(limit), "rows.offsets": len(event_ends),
    }  # fmt: skip
    for name, length in wanted.items():
        if len(columns[name]) != length:
            raise ValueError(f"{name} has {len(columns[name])} numbers where {length} are expected")
    for name, ends, length in (
        ("rows.offsets", row_ends, len(limit)), ("events.offsets", event_ends, len(event_at_ms)),
    ):  # fmt: skip
        if not len(ends) or int(ends[-1]) != length:
            raise ValueError(f"{name} must end with {length}; it is {ends.tolist()[-3:]}")


def bucketed(rows: "Rows", events: "Events", timed: bool = True) -> Pairs:
    """Pairs with the buckets of `kernels.attention.buckets`; those of times only if `timed`."""
    return Pairs(rows, events, _distance_buckets(), time_bucket if timed else None)


@cache
def _distance_buckets() -> Tensor:
    return distance_bucket(torch.arange(FARTHEST + 1))


@njit(cache=True, nogil=True)
def _plan(row_ends, position, limit, at_ms, event_ends, starts, cuts):
    """Fills starts and cuts: the number of pairs, the most events that a row sees, the parts."""
    count = most = parts = cut_at = 0
    cuts[0] = 0
    for b in range(len(row_ends) - 1):
        events = event_ends[b + 1] - event_ends[b]
        if count - cut_at >= PART:
            parts += 1
            cuts[parts], cut_at = b, count
        for r in range(row_ends[b], row_ends[b + 1]):
            seen = max(min(limit[r], events), 0)
            most = max(most, seen)
            if (
                r > row_ends[b]
                and limit[r] == limit[r - 1]
                and position[r] == position[r - 1]
                and at_ms[r] == at_ms[r - 1]
            ):
                starts[r] = starts[r - 1]
            else:
                starts[r] = count
                count += max(whole(seen), LANES)  # two rows that see nothing start apart, too
    cuts[parts + 1] = len(row_ends) - 1
    return count, most, parts + 1


@njit(cache=True, nogil=True)
def _fill_buckets(row_ends, limit, at_ms, event_ends, event_at_ms, starts, entries):
    to, times = address(entries), address(event_at_ms)
    filled = -1
    for b in range(len(row_ends) - 1):
        first, events = event_ends[b], event_ends[b + 1] - event_ends[b]
        for r in range(row_ends[b], row_ends[b + 1]):
            if starts[r] != filled:
                filled = starts[r]
                time_buckets(to + filled, at_ms[r], times + 8 * first, min(limit[r], events))


@njit(cache=True, nogil=True)
def _fill_gaps(row_ends, limit, at_ms, event_ends, event_at_ms, starts, gaps):
    filled = -1
    for b in range(len(row_ends) - 1):
        first, events = event_ends[b], event_ends[b + 1] - event_ends[b]
        for r in range(row_ends[b], row_ends[b + 1]):
            if starts[r] != filled:
                filled = starts[r]
                for j in range(min(limit[r], events)):
                    gaps[filled + j] = at_ms[r] - event_at_ms[first + j]


@njit(cache=True, nogil=True)
def _spread(table, distance_entry, nearest, spread):
    for x in range(len(spread)):
        spread[x] = table[distance_entry[min(max(nearest - x, 0), len(distance_entry) - 1)]]


@njit(cache=True, nogil=True)
def _fold(grads, distance_entry, nearest, table):
    for p in range(len(grads)):
        for x in range(grads.shape[1]):
            entry = distance_entry[min(max(nearest - x, 0), len(distance_entry) - 1)]
            table[entry] += grads[p, x]
