"""Which rows and which keys a program works on: read off the plan (`plan.py`).

Shapes: M rows of a tile.
"""

import triton
import triton.language as tl

BATCH = ("users", "rows")
"""Arguments that differ from batch to batch: a kernel is not compiled again when they do."""


@triton.jit
def rows_of_tile(Order, Limit, Position, RowMs, begin, end, ROWS: tl.constexpr):
    """A tile's places, the rows that stand there, and the ends of what they hold.

    Places beyond the user's last row repeat it and are not `known`.
    """
    place_M = begin + tl.arange(0, ROWS)
    known_M = place_M < end
    place_M = tl.minimum(place_M, end - 1)
    row_M = tl.load(Order + place_M).to(tl.int64)
    limit_M = tl.load(Limit + place_M)
    position_M = tl.load(Position + place_M)
    ms_M = tl.load(RowMs + place_M)
    return (
        place_M, known_M, row_M, limit_M, position_M,
        tl.min(position_M), tl.max(position_M), tl.min(ms_M), tl.max(ms_M),
    )  # fmt: skip


@triton.jit
def ends_of_limits(Limit, begin, end, ROWS: tl.constexpr):
    """The lowest and the highest limit of a tile: those of its first and of its last row."""
    return tl.load(Limit + begin), tl.load(Limit + tl.minimum(begin + ROWS, end) - 1)


@triton.jit
def events_of_user(EventEnds, user):
    """The first of a user's packed events, and how many there are."""
    first = tl.load(EventEnds + user)
    return first, (tl.load(EventEnds + user + 1) - first).to(tl.int32)
