"""Where the shards of a CPU key index lie, and what memory they hold.

A shard of n slots lies at slot n * (SHARDS + shard) of one reserved range of addresses: a place
for each shard at each size, without an allocator. A shard only ever doubles, from one place to the
next, so that each place is used once and is zero, which is to say empty, when its shard moves in.
Shards grow about in the order of their numbers; the pages that they leave become free in that
order, too, and go back to the system.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from kernels.reserved import Pages, memory_bytes, page_bytes

Words = npt.NDArray[np.uint64]

SHARDS = 256
_SLOT_BYTES = 16
_FIRST_SLOTS = 8
_LOW_LOAD, _HIGH_LOAD = 0.60, 0.85
_ADDRESSES_PER_BYTE = 4
"""Addresses reserved per byte of the machine's memory. Evenly filled shards use two bytes of
addresses for each of their own; a single shard that holds every key uses 2 * SHARDS."""


class Shards:
    """The memory of all shards, and by shard its `slots` and its `room`: keys it takes as it is."""

    def __init__(self, keys_S: npt.NDArray[np.int64]) -> None:
        """Empty shards that have room for so many keys each."""
        self._pages = Pages(memory_bytes() * _ADDRESSES_PER_BYTE)
        self.words: Words = self._pages.all_bytes.view(np.uint64)
        self.slots_S, self.room_S = _sizes(keys_S)
        self._slots_before_S = self.slots_S.copy()

    @property
    def all(self) -> tuple[Words, Words, npt.NDArray[np.int64]]:
        """What the probing functions take."""
        return self.words, self.slots_S, self.room_S

    def let_go(self) -> None:
        """Give the pages back that their last shard has left since the last call."""
        for first, end in blocks_left(self._slots_before_S, self.slots_S, page_bytes()):
            self._pages.give_back(first, end)
        self._slots_before_S = self.slots_S.copy()

    @property
    def nbytes(self) -> int:
        """Bytes of the pages in use."""
        return held_bytes(self.slots_S, page_bytes())


@njit(cache=True, nogil=True)
def most_keys(shard: Any, slots: Any) -> int:
    """Keys that the shard takes when it has so many slots."""
    load = _LOW_LOAD + (_HIGH_LOAD - _LOW_LOAD) * np.float64(shard) / (SHARDS - 1)
    return int(np.float64(slots) * load)


@njit(cache=True, nogil=True)
def _sizes(keys_S: Any) -> tuple[Any, Any]:
    """The fewest slots with room for so many keys, and that room."""
    slots_S = np.full(SHARDS, _FIRST_SLOTS, np.uint64)
    room_S = np.empty(SHARDS, np.int64)
    for shard in range(SHARDS):
        while most_keys(shard, slots_S[shard]) < keys_S[shard]:
            slots_S[shard] *= np.uint64(2)
        room_S[shard] = most_keys(shard, slots_S[shard])
    return slots_S, room_S


def held_bytes(slots_S: Words, page: int) -> int:
    """Bytes of the blocks that some shard has reached and not all have left."""
    total = page if slots_S.min() < _filling(page) else 0
    for slots in _sizes_from(slots_S.min(), slots_S.max(), page):
        groups = _groups(slots_S, slots, page)
        held = (groups.min(1) <= slots) & (groups.max(1) >= slots)
        total += int(held.sum()) * _block_bytes(slots, page)
    return total


def blocks_left(before_S: Words, slots_S: Words, page: int) -> Iterator[tuple[int, int]]:
    """First byte and end of the blocks that their last shard has left since `before_S`."""
    if before_S.min() < _filling(page) <= slots_S.min():
        yield 0, page
    for slots in _sizes_from(before_S.min(), slots_S.max(), page):
        before, now = _groups(before_S, slots, page), _groups(slots_S, slots, page)
        length = _block_bytes(slots, page)
        for i in np.flatnonzero((before.min(1) <= slots) & (now.min(1) > slots)).tolist():
            # Those of one size lie behind as many of all smaller sizes.
            yield (len(now) + i) * length, (len(now) + i + 1) * length


def _filling(page: int) -> int:
    """The size from which on the shards of one size fill pages; smaller ones share the first."""
    return page // (SHARDS * _SLOT_BYTES)


def _sizes_from(smallest: Any, largest: Any, page: int) -> Iterator[int]:
    """Sizes of shards, in slots, that lie in blocks of their own."""
    slots = max(int(smallest), _filling(page))
    while slots <= largest:
        yield slots
        slots *= 2


def _groups(slots_S: Words, slots: int, page: int) -> Words:
    """The shards by the block that they share when they have so many slots."""
    return slots_S.reshape(-1, _block_bytes(slots, page) // (slots * _SLOT_BYTES))


def _block_bytes(slots: int, page: int) -> int:
    """A block is a page, or one shard where that is more."""
    return max(page, slots * _SLOT_BYTES)
