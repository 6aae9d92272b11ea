"""Initial vectors in plain Python integers and numpy: the specification."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
PARTS = 4
MEAN = PARTS * (2**16 - 1) // 2
STD = math.sqrt(PARTS * (2**32 - 1) / 12)
"""Of the sum of four independent uniform integers in 0 .. 65535."""


def mix64(word: int) -> int:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014; constants: Stafford's variant 13)."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ word >> 27) * 0x94D049BB133111EB & MASK
    return word ^ word >> 31


def fill(keys_N: npt.NDArray[np.int64], seed: int, std: float, rows_ND: Any) -> None:
    """Write every key's vector into `rows_ND`."""
    unit = np.float32(std / STD)
    for i, key in enumerate(keys_N.tolist()):
        start = mix64(key & MASK ^ mix64(seed))
        for d in range(rows_ND.shape[1]):
            word = mix64(start + (d + 1) * GOLDEN & MASK)
            total = sum(word >> 16 * part & 0xFFFF for part in range(PARTS))
            rows_ND[i, d] = np.float32(total - MEAN) * unit
