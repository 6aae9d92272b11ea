"""The rows with the highest logits of all, exactly, in one pass that sorts nothing.

Rows go by in blocks. Of each an upper bound of its logit is computed, fast: codes of 8 or 4 bits
times the user's vector in whole numbers. Only rows whose bound is above the k-th best logit so far
are looked at: whether they may be found and are not excluded, and then their logit is computed as
everywhere (`scans.dot`). So what is found is, to the bit, what
sorting every logit would find, of equal ones the first rows.

Where few rows may be found, as with a selective filter, that comes first: the threshold would rise
slowly, and most rows above it would have been computed for nothing. How many pass is counted as
rows are looked at, so that a part of the catalogue that a filter likes is searched the other way.

The bound. With x the row as it decodes, |x_d| <= m = |bias| + 255 scale, and u the user's vector,
`u_d = t q_d + e_d` with whole q_d: the product differs from `t scale sum(c_d q_d) + bias sum(u_d)`
by at most `255 scale sum|e_d|`, and by float32 roundings of which each is at most 2^-24 of
`m sum|u_d|` or of what is added to it; there are fewer than D + 40 in either way of computing.
Twice their sum is added.

Shapes: R rows, K found, E excluded rows, D width, G codes of categories.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from kernels.crew import Crew
from kernels.row_codes.cpu import half
from kernels.row_dots import lanes_above, sums_of_codes, sums_of_codes4
from service.model.allowed import Allowed, allowed_rows, rows_allowed
from service.model.scans import dot, logits_of, mean_of_codes
from service.model.vectors import INT4, INT8, Table

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]

BLOCK = 1024
"""Rows whose bounds are computed together; a multiple of 16."""
_LANES = 16
FEW = 12
"""Rows are asked first whether they may be found while fewer than one in so many do."""
_LATELY = 16 * BLOCK
"""Of so many rows looked at."""
_PART = 32
"""Weights that are multiplied at a time."""
_MOST = 2**31 - 1
_LARGEST = 255
"""Highest code."""


class Best(NamedTuple):
    """Rows [K] and their logits, best first."""

    rows_K: Longs
    logit_K: Floats


class _Weights(NamedTuple):
    """A user's vector in whole numbers, and what bounds need: float32 numbers as in the module's
    text."""

    whole: npt.NDArray[np.int16]
    """q, filled up with zeros to whole parts."""
    step: np.float32
    """t."""
    total: np.float32
    """sum(u_d)."""
    per_scale: np.float32
    """What a bound adds for each unit of a row's scale."""
    per_bias: np.float32
    """And of its bias' size."""
    rounding: np.float32
    """And of the size of what else is added."""


def best_rows(
    columns: tuple[Table, Floats, Floats, Any, Floats, Floats],
    count: int,
    allowed: Allowed,
    excluded_E: Longs,
    crew: Crew,
) -> Best:
    """The `count` rows from 1 on with the highest logits; fewer when no more may be found.

    columns: as `scans.logits_of` takes them, the user's vector last. excluded_E: sorted. Rows
    with a prior of minus infinity are never found.
    """
    weights = _weights(columns[-1])
    parts = crew.run(
        len(columns[1]), _part, columns, weights, count, allowed, excluded_E
    )  # fmt: skip
    rows, logits = (np.concatenate(column) for column in zip(*parts, strict=True))
    order_K = np.lexsort((rows, -logits))[:count]
    return Best(rows[order_K], logits[order_K])


def _part(
    part: int, parts: int, columns: tuple[Any, ...], weights: _Weights, count: int,
    allowed: Allowed, excluded_E: Longs,
) -> Any:  # fmt: skip
    blocks = -(-len(columns[1]) // BLOCK)
    first, end = (blocks * number // parts * BLOCK for number in (part, part + 1))
    return _scan(*(*columns, tuple(weights), allowed, excluded_E, count, first, end))


def _weights(user: Floats) -> _Weights:
    exact_D, width = user.astype(np.float64), len(user)
    size, levels = np.abs(exact_D).max(), min(2**15 - 1, _MOST // (_LARGEST * width))
    step = np.float32(size / levels) if size > 0 else np.float32(1)
    whole = np.zeros(-(-width // _PART) * _PART, np.int16)
    whole[:width] = np.clip(np.rint(exact_D / step), -levels, levels)
    error = np.abs(exact_D - np.float64(step) * whole[:width]).sum()
    rounding = 2 * (width + 40) * 2.0**-24
    length = np.abs(exact_D).sum() + error
    return _Weights(
        whole, step, np.float32(exact_D.sum()),
        np.float32(_LARGEST * (2 * error + rounding * length)), np.float32(rounding * length),
        np.float32(rounding),
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _scan(
    table: Any, inverse: Any, prior: Any, codes: Any, of_codes: Any, user: Any, weights: Any,
    allowed: Any, excluded: Any, count: Any, first: Any, end: Any,
) -> Any:  # fmt: skip
    """The best of the blocks first..end-1: rows and logits, in the order of the rows."""
    kind, data, scale, bias, row_bytes, width = table
    whole, step, total, per_scale, per_bias, rounding = weights
    data_at, user_at = np.uint64(data.ctypes.data), np.uint64(user.ctypes.data)
    coded, wide, low = kind in (INT8, INT4), np.float32(0), np.float32(0)
    bound, shown = np.empty(BLOCK, np.float32), np.empty(_LANES, np.bool_)
    bound_at = np.uint64(bound.ctypes.data)
    sums, added = np.zeros(BLOCK, np.int32), np.zeros(BLOCK, np.float32)
    room = count + count // 2 + 4 * _LANES
    rows, logits = np.empty(room, np.int64), np.empty(room, np.float32)
    group_rows, block_rows = np.empty(_LANES, np.int64), np.empty(BLOCK, np.int64)
    block_logits = np.empty(BLOCK, np.float32)
    held, threshold, looked, passed = 0, np.float32(-np.inf), 0, 0
    for base in range(first, min(end, len(inverse)), BLOCK):
        size = min(BLOCK, len(inverse) - base)
        if looked > _LATELY:
            looked, passed = looked // 2, passed // 2
        if looked >= BLOCK and passed * FEW < looked:
            some = _passing(allowed, excluded, base, base + size, block_rows)
            looked, passed = looked + size, passed + some
            logits_of(
                table, inverse, prior, codes, of_codes, user, block_rows[:some],
                block_logits[:some],
            )  # fmt: skip
            for i in range(some):
                if block_logits[i] > threshold:
                    rows[held], logits[held] = block_rows[i], block_logits[i]
                    held += 1
                    if held > room - _LANES:
                        held, threshold = _keep(rows, logits, held, count)
            continue
        if len(of_codes):
            _add_block(codes, of_codes, base, added[:size])
        if coded:
            _sum_block(kind, data_at + np.uint64(base) * row_bytes, row_bytes, whole, size, sums)
            _bound_block(
                sums, added, scale[base : base + size], bias[base : base + size],
                inverse[base : base + size], prior[base : base + size],
                step, total, per_scale, per_bias, rounding, bound,
            )  # fmt: skip
        else:
            for i in range(size):
                at = data_at + np.uint64(base + i) * row_bytes
                product = dot(kind, at, width, wide, low, user_at) + added[i]
                bound[i] = product * inverse[base + i] + prior[base + i]
        bound[size:] = -np.inf
        for group in range(0, size, _LANES):
            above = lanes_above(bound_at + np.uint64(4 * group), threshold)
            if above == 0:
                continue
            _show(allowed, excluded, base + group, group_rows, shown)
            looked, passed = looked + _LANES, passed + shown.sum()
            for lane in range(_LANES):
                if not (above >> lane) & 1 or not shown[lane]:
                    continue
                row = np.uint64(base + group + lane)
                if coded:
                    wide, low = half(scale[row]), half(bias[row])
                product = dot(kind, data_at + row * row_bytes, width, wide, low, user_at)
                if len(of_codes):
                    product += added[group + lane]
                logit = product * inverse[row] + prior[row]
                if logit > threshold:
                    rows[held], logits[held] = row, logit
                    held += 1
            if held > room - _LANES:
                held, threshold = _keep(rows, logits, held, count)
    if held > count:
        held, threshold = _keep(rows, logits, held, count)
    return rows[:held], logits[:held]


@njit(cache=True, nogil=True)
def _add_block(codes: Any, of_codes: Any, base: Any, added: Any) -> None:
    """What categories add to the products of a block's rows."""
    for i in range(len(added)):
        added[i] = mean_of_codes(codes, np.uint64(base + i), of_codes)


@njit(cache=True, nogil=True)
def _show(allowed: Any, excluded: Any, first: Any, rows: Any, shown: Any) -> None:
    """Which of 16 rows may be found and are not excluded; the unknown row is none."""
    for i in range(_LANES):
        rows[i] = first + i
    allowed_rows(allowed, rows, shown)
    start, end = np.searchsorted(excluded, first), np.searchsorted(excluded, first + _LANES)
    for i in range(start, end):
        shown[excluded[i] - first] = False
    if first == 0:
        shown[0] = False


@njit(cache=True, nogil=True)
def _sum_block(kind: Any, at: Any, row_bytes: Any, whole: Any, size: Any, sums: Any) -> None:
    """Sums of codes times whole weights of a block's rows, 16 at a time."""
    weights_at, parts = np.uint64(whole.ctypes.data), np.uint64(len(whole) // _PART)
    sums_at = np.uint64(sums.ctypes.data)
    for i in range(0, size, _LANES):
        rows_at, out_at = at + np.uint64(i) * row_bytes, sums_at + np.uint64(4 * i)
        if kind == INT8:
            sums_of_codes(rows_at, row_bytes, weights_at, parts, out_at)
        else:
            sums_of_codes4(rows_at, row_bytes, weights_at, parts, out_at)


@njit(cache=True, nogil=True)
def _bound_block(
    sums: Any, added: Any, scale: Any, bias: Any, inverse: Any, prior: Any, step: Any, total: Any,
    per_scale: Any, per_bias: Any, rounding: Any, bound: Any,
) -> None:  # fmt: skip
    """Upper bounds of a block's logits; NaN, which is above nothing, for rows without an item."""
    for i in range(len(scale)):
        wide, low = half(scale[i]), half(bias[i])
        product = wide * (np.float32(sums[i]) * step) + low * total + added[i]
        slack = abs(wide) * per_scale + abs(low) * per_bias + abs(added[i]) * rounding
        bound[i] = (product + slack) * inverse[i] + (prior[i] + abs(prior[i]) * rounding)


@njit(cache=True, nogil=True)
def _passing(allowed: Any, excluded: Any, first: Any, end: Any, rows: Any) -> Any:
    """Write those of the rows first..end-1 that may be found and are not excluded, in order; how
    many they are."""
    count, kept = rows_allowed(allowed, max(first, 1), end, rows), 0
    place = np.searchsorted(excluded, first)
    for i in range(count):
        while place < len(excluded) and excluded[place] < rows[i]:
            place += 1
        rows[kept] = rows[i]
        kept += place == len(excluded) or excluded[place] != rows[i]
    return kept


@njit(cache=True, nogil=True)
def _keep(rows: Any, logits: Any, held: Any, count: Any) -> Any:
    """Keep the `count` best, of equal ones the first, in the order of the rows; how many there are,
    and the lowest logit among them."""
    if held <= count:
        return held, np.float32(-np.inf)
    lowest = np.partition(logits[:held], held - count)[held - count]
    equal = count
    for i in range(held):
        equal -= logits[i] > lowest
    kept = 0
    for i in range(held):
        if logits[i] > lowest or (logits[i] == lowest and equal > 0):
            equal -= logits[i] == lowest
            rows[kept], logits[kept] = rows[i], logits[i]
            kept += 1
    return kept, lowest
