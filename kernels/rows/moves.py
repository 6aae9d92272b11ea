"""Touch and step on a GPU: what a batch, sorted by row, does to records, marks and vectors."""

from typing import Any

import triton
import triton.language as tl

from kernels.rows.columns import CHANGED, RECORD_BYTES, RECORD_OFFSETS
from kernels.rows.decay import FIRST_EXPONENT, STEPS
from kernels.rows.optimizers import NORM_KEPT
from kernels.rows.windows import WINDOW, neighbours
from kernels.slabs import row_pointer

_FOLD = 32
"""Partial sums that folding adds up at a time."""
_NUMBERS, _MOST_PIECES = 256, 32
"""Of a tile of pieces: what leaves registers for 32 programs of one warp on a multiprocessor."""

TOUCH_OPTIONS = {"WINDOW": WINDOW, "num_warps": 1}
TOUCH_FOLD_OPTIONS = {"FOLD": _FOLD, "num_warps": 1}


def piece_options(width: int, adam: bool) -> dict[str, Any]:
    """How `step_pieces` is compiled."""
    padded = triton.next_power_of_2(width)
    tile = min(max(_NUMBERS // padded, 1), _MOST_PIECES)
    return {**_shape(width, adam), "TILE": tile, "AT_ONCE": 2, "num_warps": 1}


def fold_options(width: int, adam: bool) -> dict[str, Any]:
    """How `step_folded` is compiled."""
    return {**_shape(width, adam), "FOLD": _FOLD, "num_warps": 4}


def _shape(width: int, adam: bool) -> dict[str, Any]:
    return {"WIDTH": width, "PADDED": triton.next_power_of_2(width), "ADAM": adam}


_WINDOW = tl.constexpr(WINDOW)
_EARLIEST = tl.constexpr(-(2**63))
_CHANGED = tl.constexpr(CHANGED)
_STEPS, _FIRST_EXPONENT = tl.constexpr(STEPS), tl.constexpr(FIRST_EXPONENT)
_KEPT, _TAKEN = tl.constexpr(NORM_KEPT), tl.constexpr(1 - NORM_KEPT)
_RECORD = tl.constexpr(RECORD_BYTES // 8)
_WEIGHT = tl.constexpr(RECORD_OFFSETS["weight"] // 4)
_NORM = tl.constexpr(RECORD_OFFSETS["gradient_norm"] // 4)
_SQUARE = tl.constexpr(RECORD_OFFSETS["square"] // 4)
_COUNT = tl.constexpr(RECORD_OFFSETS["steps"] // 4)
_FLOAT = tl.constexpr(tl.pointer_type(tl.float32))
_INT32 = tl.constexpr(tl.pointer_type(tl.int32))


@triton.jit(do_not_specialize=["n", "first_ms", "last_ms", "half_life_ms"])
def touch_windows(
    rows, positions, n, at_ms, table, first_ms, last_ms, half_life_ms, records, marks,
    part_latest, part_weight, DECAYS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Use the rows of a window, or leave its part in the two places of the window."""
    window = tl.program_id(0)
    j = tl.arange(0, WINDOW)
    i = window * WINDOW + j
    there = i < n
    row = tl.load(rows + i, mask=there, other=-1)
    at = tl.load(at_ms + tl.load(positions + i, mask=there, other=0), mask=there, other=_EARLIEST)
    weight = tl.full((WINDOW,), 1.0, tl.float32)
    if DECAYS:
        since = tl.minimum(tl.maximum(at, first_ms), last_ms) - first_ms
        k = since * _STEPS // half_life_ms
        exponent = (k // _STEPS).to(tl.int32) + _FIRST_EXPONENT
        weight = (tl.load(table + k % _STEPS) + (exponent << 23)).to(tl.float32, bitcast=True)
    # Runs on to the end of each piece, where it is complete.
    row, latest, weight = tl.associative_scan((row, at, weight), 0, _join)
    before, behind = neighbours(rows, window, n)
    following = tl.load(rows + i + 1, mask=(i + 1 < n) & (j != WINDOW - 1), other=-1)
    once = there & (row > 0) & (row != following)
    whole = once & (row != before) & (row != behind)
    _use(row, latest, weight, whole, records, marks)
    place = 2 * window + tl.where(row == before, 0, 1)
    tl.store(part_latest + place, latest, mask=once & ~whole)
    tl.store(part_weight + place, weight, mask=once & ~whole)


@triton.jit(do_not_specialize=["n"])
def touch_folded(rows, n, part_latest, part_weight, records, marks, FOLD: tl.constexpr):
    """Use the row that goes on from a window where it begins."""
    window = tl.program_id(0)
    before, behind = neighbours(rows, window, n)
    row = tl.load(rows + tl.minimum((window + 1) * _WINDOW, n) - 1)
    if (row == behind) & (row != before) & (row > 0):
        latest = tl.load(part_latest + 2 * window + 1)
        weight = tl.load(part_weight + 2 * window + 1)
        left = True
        while left:
            others, part = _others(rows, window, row, n, FOLD)
            more = tl.load(part_latest + 2 * others, mask=part, other=_EARLIEST)
            latest = tl.maximum(latest, tl.max(more, axis=0))
            weight += tl.sum(tl.load(part_weight + 2 * others, mask=part, other=0.0), axis=0)
            window += FOLD
            left = tl.sum(part.to(tl.int32), axis=0) == FOLD
        one = tl.arange(0, 1)
        _use(row + one, latest + one, weight + one, one == 0, records, marks)


@triton.jit(do_not_specialize=["n"])
def step_pieces(
    rows, positions, n, grads, starts, pieces, parts, vectors, moments, records, marks,
    rate, eps, beta1, rest1, log1, beta2, rest2, log2,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ADAM: tl.constexpr, TILE: tl.constexpr,
    AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Sum each piece in batch order, a tile of them at a time; move its row if it is whole, else
    leave the sum in its place of the window. Any number of programs share the pieces."""
    column = tl.arange(0, PADDED)
    inside = (column < WIDTH)[None, :]
    count = tl.load(pieces)
    tile = tl.program_id(0)
    while tile * TILE < count:
        piece = tile * TILE + tl.arange(0, TILE)
        there = piece < count
        at = tl.load(starts + piece, mask=there, other=0)
        end = tl.load(starts + piece + 1, mask=there, other=0)
        row = tl.load(rows + at, mask=there, other=0)
        window = at // _WINDOW
        before = tl.load(rows + window * _WINDOW - 1, mask=there & (window > 0), other=-1)
        next_at = (window + 1) * _WINDOW
        behind = tl.load(rows + next_at, mask=there & (next_at < n), other=-1)
        whole = there & (row != before) & (row != behind)
        g = tl.zeros((TILE, PADDED), tl.float32)
        while tl.max(end - at, axis=0) > 0:
            for _ in tl.static_range(AT_ONCE):
                position = tl.load(positions + at, mask=at < end, other=0)
                place = grads + position[:, None] * WIDTH + column[None, :]
                mask = (at < end)[:, None] & inside
                g += tl.load(place, mask=mask, other=0.0, eviction_policy="evict_first")
                at += 1
        part = 2 * window + tl.where(row == before, 0, 1)
        place = parts + part.to(tl.int64)[:, None] * WIDTH + column[None, :]
        tl.store(place, g, mask=(there & ~whole)[:, None] & inside)
        _move(
            row, g, whole, vectors, moments, records, marks,
            rate, eps, beta1, rest1, log1, beta2, rest2, log2, WIDTH, PADDED, ADAM,
        )  # fmt: skip
        tile += tl.num_programs(0)


@triton.jit(do_not_specialize=["n"])
def step_folded(
    rows, n, parts, vectors, moments, records, marks,
    rate, eps, beta1, rest1, log1, beta2, rest2, log2,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ADAM: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    """Move the row that goes on from a window where it begins."""
    window = tl.program_id(0)
    before, behind = neighbours(rows, window, n)
    row = tl.load(rows + tl.minimum((window + 1) * _WINDOW, n) - 1)
    if (row == behind) & (row != before):
        column = tl.arange(0, PADDED)
        inside = column < WIDTH
        first = (2 * window + 1).to(tl.int64) * WIDTH
        g = tl.load(parts + first + column, mask=inside, other=0.0)
        left = True
        while left:
            others, part = _others(rows, window, row, n, FOLD)
            place = parts + 2 * others.to(tl.int64)[:, None] * WIDTH + column[None, :]
            more = tl.load(place, mask=part[:, None] & inside[None, :], other=0.0)
            g += tl.sum(more, axis=0)
            window += FOLD
            left = tl.sum(part.to(tl.int32), axis=0) == FOLD
        one = tl.arange(0, 1)
        _move(
            row + one, g[None, :], one == 0, vectors, moments, records, marks,
            rate, eps, beta1, rest1, log1, beta2, rest2, log2, WIDTH, PADDED, ADAM,
        )  # fmt: skip


@triton.jit
def _join(row_a, latest_a, weight_a, row_b, latest_b, weight_b):
    """Sum and latest of two stretches, as far as they end with one row."""
    same = row_a == row_b
    latest = tl.where(same, tl.maximum(latest_a, latest_b), latest_b)
    return row_b, latest, tl.where(same, weight_a + weight_b, weight_b)


@triton.jit
def _others(rows, window, row, n, FOLD: tl.constexpr):
    """The next windows, and which of them begin with the row."""
    others = window + 1 + tl.arange(0, FOLD)
    first = tl.load(rows + others * _WINDOW, mask=others * _WINDOW < n, other=-1)
    return others, first == row


@triton.jit
def _use(row, latest, weight, used, records, marks):
    """Write occurrences into the records of distinct rows."""
    record = row_pointer(records, tl.where(used, row, 0), tl.int64, _RECORD)
    last_seen = tl.load(record, mask=used, other=_EARLIEST)
    tl.store(record, tl.maximum(last_seen, latest), mask=used)
    weight_at = record.to(_FLOAT, bitcast=True) + _WEIGHT
    tl.store(weight_at, tl.load(weight_at, mask=used, other=0.0) + weight, mask=used)
    _mark(row, used, marks)


@triton.jit
def _mark(row, changed, marks):
    mark = row_pointer(marks, tl.where(changed, row, 0), tl.uint8, 1)
    tl.store(mark, tl.load(mark, mask=changed, other=0) | _CHANGED, mask=changed)


@triton.jit
def _move(
    row, g, moving, vectors, moments, records, marks,
    rate, eps, beta1, rest1, log1, beta2, rest2, log2,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ADAM: tl.constexpr,
):  # fmt: skip
    """One step of distinct rows by their gradients, [rows, PADDED]: Adam or row-wise Adagrad."""
    row = tl.where(moving, row, 0)
    column = tl.arange(0, PADDED)[None, :]
    mask = moving[:, None] & (column < WIDTH)
    vector_at = row_pointer(vectors, row, tl.float32, WIDTH)[:, None] + column
    vector = tl.load(vector_at, mask=mask, other=0.0)
    record = row_pointer(records, row, tl.int64, _RECORD)
    count_at = record.to(_INT32, bitcast=True) + _COUNT
    norm_at = record.to(_FLOAT, bitcast=True) + _NORM
    square_at = record.to(_FLOAT, bitcast=True) + _SQUARE
    steps = tl.load(count_at, mask=moving, other=0)
    norm = tl.load(norm_at, mask=moving, other=0.0)
    square = tl.load(square_at, mask=moving, other=0.0)
    mean = tl.sum(g * g, axis=1) / WIDTH
    new_norm = tl.sqrt(mean)
    norm = tl.where(steps == 0, new_norm, _KEPT * norm + _TAKEN * new_norm)
    steps += 1
    if ADAM:
        moment_at = row_pointer(moments, row, tl.float32, WIDTH)[:, None] + column
        direction = beta1 * tl.load(moment_at, mask=mask, other=0.0) + rest1 * g
        tl.store(moment_at, direction, mask=mask)
        square = beta2 * square + rest2 * mean
        scale = rate / _one_minus_power(log1, steps)
        scale /= tl.sqrt(square / _one_minus_power(log2, steps)) + eps
    else:
        direction = g
        square += mean
        scale = rate / (tl.sqrt(square) + eps)
    tl.store(vector_at, vector - scale[:, None] * direction, mask=mask)
    tl.store(count_at, steps, mask=moving)
    tl.store(norm_at, norm, mask=moving)
    tl.store(square_at, square, mask=moving)
    _mark(row, moving, marks)


@triton.jit
def _one_minus_power(log, steps):
    """1 - beta^steps from log(beta), without cancellation: a Taylor series where it is small."""
    x = log * steps.to(tl.float32)
    series = 1.0 + x / 7 * (1.0 + x / 8)
    series = 1.0 + x / 3 * (1.0 + x / 4 * (1.0 + x / 5 * (1.0 + x / 6 * series)))
    return tl.where(x > -0.5, -x * (1.0 + x / 2 * series), 1.0 - tl.exp(x))
