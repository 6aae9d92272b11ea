"""The 64-bit mixer behind shard choice, probing and initial vectors."""

import numpy as np
from numba import njit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / golden ratio: SplitMix64's step from one word to the next."""


@njit(cache=True, nogil=True)
def mix64(word: np.uint64) -> np.uint64:
    """SplitMix64's finalizer (Stafford's variant 13): a bijection; every bit reaches all."""
    word = np.uint64(word)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
