"""Which thread writes a row: a function of the row alone, so that no two threads share one.

A row's occurrences all meet the same thread, in batch order: results are the same bits for any
number of threads. Rows are dealt in pairs, since two records share a cache line.
"""

from typing import Any

import numpy as np
from numba import njit

_SPREAD = np.uint64(0x9E3779B1)
"""2^32 / golden ratio, a prime: neighbouring pairs land far apart (Knuth, TAOCP 3, 6.4)."""

_LOW, _HALF, _ONE = np.uint64(2**32 - 1), np.uint64(32), np.uint64(1)


@njit(cache=True, nogil=True)
def owner(row: Any, parts: Any) -> Any:
    """The part, 0 .. parts-1, that writes this row."""
    return (((row >> _ONE) * _SPREAD & _LOW) * parts) >> _HALF


@njit(cache=True, nogil=True)
def own_positions(
    part: Any, parts: Any, rows: Any, first: Any, end: Any, least: Any, positions: Any
) -> Any:
    """Fill `positions` with those of first .. end-1 whose row is the part's and at least `least`;
    how many. Nothing branches: which thread owns a row cannot be predicted."""
    found = np.uint64(0)
    for i in range(first, end):
        row = np.uint64(rows[i])
        positions[found] = i
        found += np.uint64((owner(row, parts) == part) & (row >= least))
    return found
