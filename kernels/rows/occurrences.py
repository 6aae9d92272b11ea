"""Touch in numba: last use and decayed count of each row that a batch names."""

from typing import Any

import numpy as np
from numba import njit

from kernels.lanes import prefetch
from kernels.rows import records
from kernels.rows.columns import CHANGED
from kernels.rows.decay import FIRST_EXPONENT, TABLE
from kernels.rows.ownership import own_positions

_TILE = np.uint64(256)
"""Positions whose records are asked for together."""

_ZERO, _FIRST_ROW = np.uint64(0), np.uint64(1)
"""Row 0 is the unknown row: nobody counts it."""

_BITS = TABLE.view(np.uint32)
_BYTE, _STEP_BITS = np.uint64(255), np.uint64(8)
_FIRST_EXPONENT, _EXPONENT_AT = np.uint32(-FIRST_EXPONENT), np.uint32(23)


@njit(cache=True, nogil=True, error_model="numpy")
def weigh(at_ms: Any, first_ms: Any, last_ms: Any, half_life_ms: Any) -> Any:
    """g of one time, as `Decay.weights` has it; half-life 0 for counts that do not decay."""
    if half_life_ms == 0:
        return np.float32(1)
    since = np.uint64(min(max(at_ms, first_ms), last_ms) - first_ms)
    k = (since << _STEP_BITS) // np.uint64(half_life_ms)
    power = np.uint32(k >> _STEP_BITS) - _FIRST_EXPONENT
    return np.uint32(_BITS[k & _BYTE] + np.uint32(power << _EXPONENT_AT)).view(np.float32)


@njit(cache=True, nogil=True)
def touch(part: Any, parts: Any, table: Any, rows: Any, at_ms: Any, decay: Any) -> None:
    """Occurrences of the part's rows, in batch order. `table` is the records as int64 and as
    float32, and marks; `decay` what `weigh` takes."""
    n, part, parts = np.uint64(len(rows)), np.uint64(part), np.uint64(parts)
    wide, narrow, marks = table
    first_ms, last_ms, half_life_ms = decay
    records_at, marks_at = np.uint64(wide.ctypes.data), np.uint64(marks.ctypes.data)
    positions = np.empty(_TILE, np.uint64)
    for first in range(_ZERO, n, _TILE):
        end = min(first + _TILE, n)
        found = own_positions(part, parts, rows, first, end, _FIRST_ROW, positions)
        for j in range(found):
            row = np.uint64(rows[positions[j]])
            prefetch(records_at + row * records.BYTES)
            prefetch(marks_at + row)
        for j in range(found):
            row, at = np.uint64(rows[positions[j]]), at_ms[positions[j]]
            seen = row * records.WIDE + records.LAST_SEEN
            wide[seen] = max(wide[seen], at)
            weight = weigh(at, first_ms, last_ms, half_life_ms)
            narrow[row * records.NARROW + records.WEIGHT] += weight
            if not marks[row] & CHANGED:
                marks[row] |= CHANGED
