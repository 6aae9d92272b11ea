"""What the kernels need to know of a batch beside its numbers: made once, used by every layer.

Everything is computed on the tensors' own device without reading anything back, so a training step
does not wait for it. Nothing here is larger than 64 numbers for each row.

Shapes: B users, R rows, T events, S buckets; G spans of 64 rows or events of one user.
"""

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.buckets import TIME_BUCKETS, time_bucket
from kernels.attention.gpu.numbers import ALL, BUCKETS
from kernels.attention.kept import kept
from kernels.gpu import launch

if TYPE_CHECKING:
    from kernels.attention import Events, Rows

SPAN = 64
"""Rows or events whose lowest and highest values are kept; tiles divide it."""
FAR_AWAY = 1 << 30
"""Positions beyond this are equally far from every event."""

_USER = 1 << 32


class Seen:
    """The events of each user, by position and in order of time."""

    def __init__(self, events: "Events") -> None:
        self.ends_B, self.ms_T, self.count = events.offsets, events.at_ms, len(events.at_ms)

    @cached_property
    def spans(self) -> tuple[Tensor, Tensor]:
        """int64 [G, 3], for each span of events the lowest and the highest time, and how far the
        order of time is ahead of the position, 2^30 if that is not one number; int32 [B], each
        user's first span. One span more than needed: the kernels load ahead."""
        span_T, first_B, count = _spans(self.ends_B, self.count)
        ahead_T = self.rank_T - _within(self.ends_B, self.count)
        least, most = _ends_of(ahead_T, span_T, count)
        ahead = torch.where(least == most, least, ALL.value)
        return torch.stack([*_ends_of(self.ms_T, span_T, count), ahead], 1), first_B

    @property
    def rank_T(self) -> Tensor:
        """int32 [T]: how many events of the same user come before this one in time."""
        return self._by_time[0]

    @property
    def sorted_ms_T(self) -> Tensor:
        """int64 [T]: the times of each user in order."""
        return self._by_time[1]

    @cached_property
    def _by_time(self) -> tuple[Tensor, Tensor]:
        user_T = _owners(self.ends_B, self.count)
        order_T = torch.argsort(self.ms_T, stable=True)
        order_T = order_T[torch.argsort(user_T[order_T], stable=True)]
        within_T = _within(self.ends_B, self.count)
        rank_T = torch.empty_like(within_T).scatter_(0, order_T, within_T)
        return rank_T.int(), self.ms_T[order_T]


class Plan:
    """The rows of each user in order of their limits, and what their tiles have to visit.

    `place` is a row's number in that order. Rows that are in order already keep their numbers.
    """

    def __init__(self, rows: "Rows", seen: Seen) -> None:
        self.seen, self.row_ends_B = seen, rows.offsets
        self.users, self.rows = len(rows.offsets) - 1, len(rows.limit)
        self._user_R = _owners(rows.offsets, self.rows)
        limit_R = torch.minimum(rows.limit, seen.ends_B.diff()[self._user_R]).clamp(min=0)
        self._sorted_R, order_R = torch.sort(self._user_R * _USER + limit_R, stable=True)
        self.order_R = order_R.int()
        self.limit_R = (self._sorted_R % _USER).int()
        self.position_R = rows.position[order_R].clamp(-1, FAR_AWAY).int()
        self.row_ms_R = rows.at_ms[order_R]
        self._tiles: dict[tuple[str, int], Tensor] = {}

    def row_tiles(self, size: int) -> Tensor:
        """int32 [tiles, 2]: user and first place of every tile of rows, most keys first. User B
        marks what is left over at the end."""
        return self._cached("rows", size)

    def key_tiles(self, size: int) -> Tensor:
        """int32 [tiles, 4]: user and first position of every tile of events, most rows first; the
        first place that sees any of it, and the first that sees all of it."""
        return self._cached("keys", size)

    @cached_property
    def row_spans(self) -> tuple[Tensor, Tensor]:
        """int64 [G, 4], lowest and highest position and time of each span of rows; int32 [B]."""
        span_R, first_B, count = _spans(self.row_ends_B, self.rows)
        ends = _ends_of(self.position_R.long(), span_R, count)
        return torch.stack([*ends, *_ends_of(self.row_ms_R, span_R, count)], 1), first_B

    @cached_property
    def reach_SR(self) -> Tensor:
        """int32 [S, R]: how many events of its user a row has in a bucket of time or above it."""
        reach_SR = self.order_R.new_empty((TIME_BUCKETS, self.rows))
        launch(
            _reach, triton.cdiv(self.rows, 16), self.row_ms_R, self._user_R, self.seen.ends_B,
            self.seen.sorted_ms_T, _time_edges(self.order_R.device), reach_SR, self.rows,
            STEPS=self.seen.count.bit_length(), ROWS=16,
        )  # fmt: skip
        return reach_SR

    def _cached(self, kind: str, size: int) -> Tensor:
        if (kind, size) not in self._tiles:
            make = self._make_row_tiles if kind == "rows" else self._make_key_tiles
            self._tiles[kind, size] = make(size)
        return self._tiles[kind, size]

    def _make_row_tiles(self, size: int) -> Tensor:
        if not self.rows:
            return self.order_R.new_empty((0, 2))
        user, within = _split(self.row_ends_B, self.rows, size)
        end = self.row_ends_B[(user + 1).clamp(max=self.users)]
        first = self.row_ends_B[user] + within
        last = (torch.minimum(first + size, end) - 1).clamp(max=self.rows - 1)
        work = torch.where(user < self.users, self.limit_R[last], -1)
        return _most_first(work, user, first)

    def _make_key_tiles(self, size: int) -> Tensor:
        user, within = _split(self.seen.ends_B, self.seen.count, size)
        end = self.row_ends_B[(user + 1).clamp(max=self.users)]
        seen_from = torch.searchsorted(self._sorted_R, user * _USER + within, right=True)
        whole_from = torch.searchsorted(self._sorted_R, user * _USER + within + size)
        work = torch.where(user < self.users, end - seen_from, -1)
        return _most_first(work, user, within, seen_from, torch.minimum(whole_from, end))


def plan_of(rows: "Rows", events: "Events") -> Plan:
    """The plan for these rows and events, made once for the same two objects."""
    seen = kept(Seen, (events,), lambda: Seen(events))
    return kept(Plan, (rows, events), lambda: Plan(rows, seen))


def _owners(ends_B: Tensor, count: int) -> Tensor:
    """int64 [count]: the user of each packed row or event."""
    numbers = torch.arange(count, device=ends_B.device)
    return torch.searchsorted(ends_B, numbers, right=True) - 1


def _within(ends_B: Tensor, count: int) -> Tensor:
    """int64 [count]: the position of each packed row or event inside its user."""
    return torch.arange(count, device=ends_B.device) - ends_B[_owners(ends_B, count)]


def _split(ends_B: Tensor, count: int, size: int) -> tuple[Tensor, Tensor]:
    """User and offset inside the user of every tile of `size`, in order; as many as there can be,
    user B where there are fewer."""
    users = len(ends_B) - 1
    tiles_B = (ends_B.diff() + size - 1) // size
    tile = torch.arange(count // size + users, device=ends_B.device)
    tile_ends_B = torch.cat([tiles_B.new_zeros(1), tiles_B.cumsum(0)])
    user = torch.searchsorted(tile_ends_B, tile, right=True) - 1
    return user, (tile - tile_ends_B[user]) * size


def _most_first(work: Tensor, *columns: Tensor) -> Tensor:
    order = torch.argsort(work, descending=True, stable=True)
    return torch.stack(columns, 1)[order].int().contiguous()


def _spans(ends_B: Tensor, count: int) -> tuple[Tensor, Tensor, int]:
    """The span of every row or event, each user's first span, and how many there can be."""
    spans_B = (ends_B.diff() + SPAN - 1) // SPAN
    first_B = spans_B.cumsum(0) - spans_B
    owner, within = _owners(ends_B, count), _within(ends_B, count)
    return first_B[owner] + within // SPAN, first_B.int(), count // SPAN + len(spans_B) + 1


def _ends_of(values: Tensor, span: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of every span; 0 where there is none."""
    empty = values.new_zeros(count)
    low = empty.scatter_reduce(0, span, values, "amin", include_self=False)
    return low, empty.scatter_reduce(0, span, values, "amax", include_self=False)


@lru_cache
def _time_edges(device: torch.device) -> Tensor:
    """int64 [S]: the smallest gap in milliseconds of each bucket, by bisection of `time_bucket`."""
    low, high = torch.zeros(TIME_BUCKETS).long(), torch.full((TIME_BUCKETS,), 1 << 42)
    bucket = torch.arange(TIME_BUCKETS)
    while bool((low < high).any()):
        middle = (low + high) // 2
        reached = time_bucket(middle) >= bucket
        low, high = torch.where(reached, low, middle + 1), torch.where(reached, middle, high)
    return low.to(device)


@triton.jit(do_not_specialize=("rows",))
def _reach(
    RowMs, UserOfRow, EventEnds, SortedMs, Edges, Reach, rows,
    STEPS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Count each user's events at or before `row time - edge`, by bisection."""
    place_M = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    known_M = place_M < rows
    user_M = tl.load(UserOfRow + place_M, mask=known_M, other=0)
    first_M = tl.load(EventEnds + user_M)
    length_M = (tl.load(EventEnds + user_M + 1) - first_M).to(tl.int32)
    bucket_S = tl.arange(0, BUCKETS)
    ms_M = tl.load(RowMs + place_M, mask=known_M, other=0)
    latest_MS = ms_M[:, None] - tl.load(Edges + bucket_S)[None, :]
    low_MS = tl.zeros([ROWS, BUCKETS], tl.int32)
    high_MS = low_MS + length_M[:, None]
    for _ in range(0, STEPS):
        open_MS = low_MS < high_MS
        middle_MS = (low_MS + high_MS) // 2
        ms_MS = tl.load(SortedMs + first_M[:, None] + middle_MS, mask=open_MS, other=0)
        before_MS = ms_MS <= latest_MS
        low_MS = tl.where(open_MS & before_MS, middle_MS + 1, low_MS)
        high_MS = tl.where(open_MS & ~before_MS, middle_MS, high_MS)
    low_MS = tl.where(bucket_S[None, :] == 0, length_M[:, None], low_MS)
    cells_MS = Reach + bucket_S[None, :] * rows + place_M[:, None]
    tl.store(cells_MS, low_MS, mask=known_M[:, None])
