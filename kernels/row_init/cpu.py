"""Initial vectors in numba: bit for bit those of the reference."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from kernels.mixing import GOLDEN, mix64
from kernels.row_init.reference import MEAN, STD

_LOW = np.uint64(0xFFFF)


def fill(keys_N: npt.NDArray[np.int64], seed: int, std: float, rows_ND: Any) -> None:
    """Write every key's vector into `rows_ND`."""
    _fill(keys_N, np.uint64(seed), np.float32(std / STD), rows_ND)


@njit(cache=True, nogil=True)
def _fill(keys_N: Any, seed: Any, unit: Any, rows_ND: Any) -> None:
    for i in range(len(keys_N)):
        word = mix64(np.uint64(keys_N[i]) ^ mix64(seed))
        for d in range(rows_ND.shape[1]):
            word += GOLDEN
            rows_ND[i, d] = np.float32(_sum_of_parts(mix64(word)) - np.int64(MEAN)) * unit


@njit(cache=True, nogil=True)
def _sum_of_parts(word: Any) -> Any:
    high = (word >> np.uint64(48)) + (word >> np.uint64(32) & _LOW)
    return np.int64(high + (word >> np.uint64(16) & _LOW) + (word & _LOW))
