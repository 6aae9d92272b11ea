"""Coordinate descent in plain numpy, as the paper writes it: the specification.

All in float64 but the codes, which are written in place.
"""

import numpy as np
import numpy.typing as npt

from kernels.quantease.grid import Bools, Bytes

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]


def descend(
    weight_OI: Doubles, moments_II: Doubles, order_A: Longs, free_OI: Bools,
    level_OL: Doubles, codes_OI: Bytes, passes: int,
) -> None:  # fmt: skip
    """So many passes over the columns of `order_A`. What is not free is exact and stays."""
    hat_OI = np.where(free_OI, _picked(level_OL, codes_OI), weight_OI)
    for _ in range(passes):
        for j in order_A.tolist():
            others_I = moments_II[:, j].copy()
            others_I[j] = 0
            best_O = (weight_OI @ moments_II[:, j] - hat_OI @ others_I) / moments_II[j, j]
            near_O = np.abs(best_O[:, None] - level_OL).argmin(axis=1)
            there_O = _picked(level_OL, near_O[:, None])[:, 0]
            moves_O = np.abs(best_O - there_O) < np.abs(best_O - hat_OI[:, j])
            moves_O &= free_OI[:, j]
            codes_OI[moves_O, j] = near_O[moves_O]
            hat_OI[moves_O, j] = there_O[moves_O]


def squares(error_OI: Doubles, moments_II: Doubles) -> Doubles:
    """e S e of every channel, [O]."""
    squares_O: Doubles = ((error_OI @ moments_II) * error_OI).sum(axis=1)
    return squares_O


def _picked(level_OL: Doubles, codes_ON: npt.NDArray[np.integer]) -> Doubles:
    return np.take_along_axis(level_OL, codes_ON.astype(np.int64), axis=1)
