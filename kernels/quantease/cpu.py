"""Coordinate descent in numba, one channel after another.

With the error e = w - what of a channel and g = S e, the best value of column j is
`what_j + g_j / S_jj`; a change by d takes `d * S_j` from g. So a column that stays costs nothing,
which makes later passes, and warm starts, cheap.
"""

from typing import Any

import numpy as np
from numba import njit
from torch import Tensor

from kernels.quantease.grid import levels


def descend(
    weight_OI: Tensor, moments_II: Tensor, order_A: Tensor, free_OI: Tensor,
    scale_O: Tensor, zero_O: Tensor, codes_OI: Tensor, passes: int,
) -> Tensor:  # fmt: skip
    codes_OI = codes_OI.clone()
    _descend(
        weight_OI.double().numpy(), moments_II.numpy(), order_A.numpy(), free_OI.numpy(),
        levels(scale_O, zero_O).double().numpy(), scale_O.double().numpy(), codes_OI.numpy(),
        passes,
    )  # fmt: skip
    return codes_OI


@njit(cache=True, nogil=True)
def _descend(
    weight: Any, moments: Any, order: Any, free: Any, level: Any, scale: Any, codes: Any,
    passes: int,
) -> None:  # fmt: skip
    error = np.empty(weight.shape[1])
    slope = np.empty(weight.shape[1])
    for o in range(len(weight)):
        if scale[o] == 0:
            continue
        for i in range(len(error)):
            error[i] = weight[o, i] - level[o, codes[o, i]] if free[o, i] else 0.0
        _times(moments, error, slope)
        for _ in range(passes):
            if not _pass(moments, order, free[o], level[o], scale[o], codes[o], slope):
                break


@njit(cache=True, nogil=True)
def _pass(
    moments: Any, order: Any, free: Any, level: Any, scale: float, codes: Any, slope: Any
) -> bool:
    """One cycle over the columns of a channel; whether anything changed."""
    changed = False
    for j in order:
        if not free[j]:
            continue
        here = level[codes[j]]
        best = here + slope[j] / moments[j, j]
        step = min(max(np.rint((best - level[0]) / scale), 0.0), level.size - 1.0)
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


def squares(error_OI: Tensor, moments_II: Tensor) -> Tensor:
    out_O = error_OI.new_empty(len(error_OI))
    _squares(error_OI.numpy(), moments_II.numpy(), out_O.numpy())
    return out_O


@njit(cache=True, nogil=True)
def _squares(error: Any, moments: Any, out: Any) -> None:
    slope = np.empty(error.shape[1])
    for o in range(len(error)):
        _times(moments, error[o], slope)
        total = 0.0
        for i in range(len(slope)):
            total += error[o, i] * slope[i]
        out[o] = total
