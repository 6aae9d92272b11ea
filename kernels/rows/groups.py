"""A thread's share of a batch: its positions, and which of them have the same row, in numba."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from kernels.rows.ownership import own_positions

_ZERO, _ONE, _TWO = np.uint64(0), np.uint64(1), np.uint64(2)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / golden ratio: multiplied by it, neighbouring rows land far apart (Knuth, TAOCP 3, 6.4)."""

_FEWEST_BITS, _WORD_BITS = np.uint64(6), np.uint64(64)
POSITIONS, GROUPS, LASTS, SUMS = 0, 1, 2, 3
"""What a part's four lists of numbers hold."""

Scratch = tuple[
    npt.NDArray[np.uint32],
    npt.NDArray[np.uint64],
    npt.NDArray[np.uint64],
    npt.NDArray[np.float32],
]
"""By part: four lists of numbers, the row of each group, slots of a hash table, sums of rows."""


def scratch_for(parts: int, positions: int, width: int) -> Scratch:
    """Scratch for batches of up to that many positions, a power of two."""
    return (
        np.empty((parts, 4, positions), np.uint32),
        np.empty((parts, positions), np.uint64),
        np.empty((parts, max(2 * positions, 2 ** int(_FEWEST_BITS))), np.uint64),
        np.empty((parts, positions // 2 * width), np.float32),
    )


@njit(cache=True, nogil=True)
def group(part: Any, parts: Any, rows: Any, scratch: Any) -> Any:
    """List the part's positions in `rows`, the group of each, the place in this list where each
    group ends, and the row of each group; how many positions. Groups count from 0 by first
    occurrence."""
    numbers, distinct, slots = scratch[0][part], scratch[1][part], scratch[2][part]
    positions = numbers[POSITIONS]
    n = own_positions(np.uint64(part), np.uint64(parts), rows, _ZERO, np.uint64(len(rows)), _ZERO,
                      positions)  # fmt: skip
    _number(rows, positions, n, slots, numbers[GROUPS], numbers[LASTS], distinct)
    return n


@njit(cache=True, nogil=True)
def _number(
    rows: Any, positions: Any, n: Any, slots: Any, groups: Any, lasts: Any, distinct: Any
) -> None:
    """Number equal rows alike, in a hash table of at least 2n slots, each (row + 1, group) in one
    word, 0 where empty.

    Whether a row is new cannot be predicted, so nothing branches on it: the smaller of `held` and
    of its difference from the row is 0 in an empty slot and in the row's own.
    """
    bits = _FEWEST_BITS
    while _ONE << bits < _TWO * n:
        bits = bits + _ONE
    last = (_ONE << bits) - _ONE
    slots[: last + _ONE] = _ZERO
    found = _ZERO
    for place in range(n):
        row = np.uint64(rows[np.uint64(positions[place])]) + _ONE
        slot = row * _SPREAD >> _WORD_BITS - bits
        held = slots[slot] >> bits
        while min(held, held ^ row) != _ZERO:
            slot = slot + _ONE & last
            held = slots[slot] >> bits
        is_new = np.uint64(held == _ZERO)
        group = (slots[slot] & last) + is_new * found
        slots[slot] = row << bits | group
        found += is_new
        groups[place], lasts[group], distinct[group] = group, place, row - _ONE
