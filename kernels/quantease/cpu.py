"""Coordinate descent in numba, one channel after another.

With the error e = w - what of a channel and g = S e, the best value of column j is
`what_j + g_j / S_jj`; a change by d takes `d * S_j` from g. So a column that stays costs nothing,
which makes later passes, and warm starts, cheap.
"""

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def descend(
    weight: Any, moments: Any, order: Any, free: Any, level: Any, codes: Any, passes: int
) -> None:
    error = np.empty(weight.shape[1])
    slope = np.empty(weight.shape[1])
    for o in range(len(weight)):
        if level[o, 0] == level[o, -1]:
            continue
        for i in range(len(error)):
            error[i] = weight[o, i] - level[o, codes[o, i]] if free[o, i] else 0.0
        _times(moments, error, slope)
        for _ in range(passes):
            if not _pass(moments, order, free[o], level[o], codes[o], slope):
                break


@njit(cache=True, nogil=True)
def _pass(moments: Any, order: Any, free: Any, level: Any, codes: Any, slope: Any) -> bool:
    """One cycle over the columns of a channel; whether anything changed."""
    changed, last = False, level.size - 1
    scale = (level[last] - level[0]) / last
    for j in order:
        if not free[j]:
            continue
        here = level[codes[j]]
        best = here + slope[j] / moments[j, j]
        step = min(max(np.rint((best - level[0]) / scale), 0.0), float(last))
        there = level[np.int64(step)]
        if abs(best - there) < abs(best - here):
            codes[j] = np.uint8(step)
            moved = there - here
            for i in range(len(slope)):
                slope[i] -= moved * moments[j, i]
            changed = True
    return changed


@njit(cache=True, nogil=True)
def _times(moments: Any, error: Any, out: Any) -> None:
    """out = S e; summed in the order of inputs, whatever the number of threads."""
    out[:] = 0.0
    for i in range(len(error)):
        if error[i] != 0:
            for k in range(len(out)):
                out[k] += error[i] * moments[i, k]


@njit(cache=True, nogil=True)
def squares(error: Any, moments: Any) -> Any:
    out = np.empty(len(error))
    slope = np.empty(error.shape[1])
    for o in range(len(error)):
        _times(moments, error[o], slope)
        total = 0.0
        for i in range(len(slope)):
            total += error[o, i] * slope[i]
        out[o] = total
    return out
