"""Optimizer steps in numba: gradients of equal rows summed, then one step for each row.

Functions with arrays are called once a tile, never once a row: numba counts references to them at
every call, by instructions that lock the bus.
"""

from typing import Any

import numpy as np
from numba import njit

from kernels.lanes import add_row, blend_row, copy_row, subtract_scaled, sum_of_squares
from kernels.rows import records
from kernels.rows.ahead import prefetch_far, prefetch_row
from kernels.rows.columns import CHANGED
from kernels.rows.decay import Decay
from kernels.rows.groups import GROUPS, LASTS, POSITIONS, SUMS, group
from kernels.rows.optimizers import NORM_KEPT, Adagrad, Adam, FrequencySgd, Optimizer, Sgd

_TILE = np.uint64(32)
"""Positions whose gradients and rows are asked for together."""

_ZERO, _ONE, _FLOAT = np.uint64(0), np.uint64(1), np.uint64(4)
_KEPT, _TAKEN = np.float32(NORM_KEPT), np.float32(1 - NORM_KEPT)

_ADAGRAD, _ADAM, _SGD, _FREQUENCY_SGD = 0, 1, 2, 3
_KINDS = {Adagrad: _ADAGRAD, Adam: _ADAM, Sgd: _SGD, FrequencySgd: _FREQUENCY_SGD}

Rule = tuple[int, tuple[float, ...]]


def rule_of(optimizer: Optimizer, decay: Decay) -> Rule:
    """The optimizer as numbers: its kind; learning rate, eps, both betas and what g is now."""
    names = ("learning_rate", "eps", "beta1", "beta2")
    numbers = (float(getattr(optimizer, name, 0)) for name in names)
    return _KINDS[type(optimizer)], (*numbers, decay.weight(decay.now_ms))


@njit(cache=True, nogil=True)
def step(
    part: Any, parts: Any, table: Any, rows: Any, grads: Any, width: Any, rule: Any, scratch: Any
) -> None:
    """One step of each of the part's rows. `table` is vectors, moments, the records as float32 and
    as int32, and marks.

    Gradients are read once, in batch order, a tile at a time. A row moves after the tile with its
    last one; if it has several, they are added up in scratch until then.
    """
    n = group(part, parts, rows, scratch)
    numbers, distinct, sums = scratch[0][part], scratch[1][part], scratch[3][part]
    ready, sums_at = np.empty(_TILE, np.uint64), np.empty(_TILE, np.uint64)
    met = _ZERO, _ZERO
    for first in range(_ZERO, n, _TILE):
        tile = first, min(first + _TILE, n), n
        count, met = _add_up(tile, met, numbers, distinct, sums, grads, width, ready, sums_at)
        _prefetch_rows(table, ready, count, width, rule[0])
        _move(table, ready, sums_at, count, width, rule)


@njit(cache=True, nogil=True)
def _add_up(
    tile: Any, met: Any, numbers: Any, distinct: Any, sums: Any, grads: Any, width: Any,
    ready: Any, ready_at: Any,
) -> Any:  # fmt: skip
    """Fill `ready` with the rows whose last gradient is in the tile, and `ready_at` with the
    addresses of their sums; how many. `met` counts the groups so far, and those with a sum."""
    positions, groups, lasts, places = (
        numbers[POSITIONS], numbers[GROUPS], numbers[LASTS], numbers[SUMS]
    )  # fmt: skip
    row_bytes = _FLOAT * width
    grads_at, sums_at = np.uint64(grads.ctypes.data), np.uint64(sums.ctypes.data)
    first, end, n = tile
    begun, summed = met
    count = _ZERO
    for place in range(first, end):
        if place + _TILE < n:
            ahead = np.uint64(positions[place + _TILE])
            prefetch_row(grads_at + ahead * row_bytes, row_bytes)
        this, at = np.uint64(groups[place]), grads_at + np.uint64(positions[place]) * row_bytes
        is_last = lasts[this] == place
        if this < begun:
            sum_at = sums_at + np.uint64(places[this]) * row_bytes
            add_row(sum_at, at, width)
            at = sum_at
        else:
            begun += _ONE
            if not is_last:
                places[this] = summed
                copy_row(sums_at + summed * row_bytes, at, width)
                summed += _ONE
        ready[count], ready_at[count] = distinct[this], at
        count += np.uint64(is_last)
    return count, (begun, summed)


@njit(cache=True, nogil=True)
def _prefetch_rows(table: Any, rows: Any, count: Any, width: Any, kind: Any) -> None:
    """Ask for all that the rows' steps will read."""
    vectors, moments, floats, _, marks = table
    row_bytes = _FLOAT * width
    vectors_at, moments_at = np.uint64(vectors.ctypes.data), np.uint64(moments.ctypes.data)
    records_at, marks_at = np.uint64(floats.ctypes.data), np.uint64(marks.ctypes.data)
    for i in range(count):
        prefetch_far(marks_at + rows[i])
        prefetch_far(records_at + rows[i] * records.BYTES)
        prefetch_row(vectors_at + rows[i] * row_bytes, row_bytes)
        if kind == _ADAM:
            prefetch_row(moments_at + rows[i] * row_bytes, row_bytes)


@njit(cache=True, nogil=True, error_model="numpy")
def _move(table: Any, rows: Any, sums_at: Any, count: Any, width: Any, rule: Any) -> None:
    """A step of each row by its summed gradient; formulas in `kernels.rows.optimizers`."""
    vectors, moments, floats, ints, marks = table
    vectors_at, moments_at = np.uint64(vectors.ctypes.data), np.uint64(moments.ctypes.data)
    kind, (learning_rate, eps, beta1, beta2, g_now) = rule
    for i in range(count):
        row, g_at, rate = rows[i], sums_at[i], learning_rate
        record, offset = row * records.NARROW, row * _FLOAT * width
        norm, square, steps = record + records.NORM, record + records.SQUARE, record + records.STEPS
        mean = sum_of_squares(g_at, width) / np.float32(width)
        floats[norm] = _running_norm(floats[norm], mean, ints[steps])
        ints[steps] += np.int32(1)
        if kind == _ADAGRAD:
            floats[square] += mean
            rate /= np.sqrt(floats[square]) + eps
        elif kind == _ADAM:
            floats[square] = beta2 * floats[square] + (1 - beta2) * mean
            rate /= np.sqrt(floats[square] / (1 - beta2 ** ints[steps])) + eps
            rate /= 1 - beta1 ** ints[steps]
            blend_row(moments_at + offset, g_at, width, np.float32(beta1), np.float32(1 - beta1))
            g_at = moments_at + offset
        elif kind == _FREQUENCY_SGD:
            rate /= np.sqrt(max(1.0, floats[record + records.WEIGHT] / g_now))
        subtract_scaled(vectors_at + offset, g_at, width, np.float32(rate))
        if not marks[row] & CHANGED:
            marks[row] |= CHANGED


@njit(cache=True, nogil=True)
def _running_norm(norm: Any, mean: Any, steps: Any) -> Any:
    return _KEPT * norm + _TAKEN * np.sqrt(mean) if steps else np.sqrt(mean)
