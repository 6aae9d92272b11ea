"""Linear probing in shards, deletion by backward shift (Knuth, TAOCP 3, algorithm 6.4 R).

A shard is one array of (key, row) pairs, so that a hit costs one cache line. The highest byte of
the mixed key chooses the shard, its low bits the home slot. Shared by all functions:

- `addresses`, `masks`, `room` (by shard): the array's address, slots - 1, keys it may still take
- `keys_R`, `free`, `ends`: the key of each row; the stack of free rows; how much of both is used
- indices are unsigned, for which numba needs no test of wrapping
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.core.types import CPointer
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from kernels.key_index.protocol import RESERVED_KEY
from kernels.mixing import mix64

Int64s = npt.NDArray[np.int64]

SHARDS = 256
EMPTY = np.int64(RESERVED_KEY)
ROWS_END, FREE, FULL_SHARD = 0, 1, 2
"""Places in `ends`: rows ever given out, free rows, the shard that has to grow."""

_SHARD_SHIFT = np.uint64(56)


def _to_pointer(typing_context: Any, address: Any) -> Any:
    """An address as a pointer to int64; numba has no such cast of its own."""
    pointer_to: Any = CPointer
    target = pointer_to(types.int64)

    def cast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(target))

    return target(types.uint64), cast


_pointer: Any = intrinsic(_to_pointer)


@njit(cache=True, nogil=True)
def _shard(address: np.uint64, mask: np.uint64) -> Int64s:
    return carray(_pointer(address), (2 * (np.int64(mask) + 1),))


@njit(cache=True, nogil=True)
def _find(pairs: Int64s, mask: np.uint64, mixed: np.uint64, key: np.int64) -> np.uint64:
    """Slot of the key, or the empty slot where it would go (a shard is never full)."""
    slot = mixed & mask
    while pairs[np.uint64(2) * slot] != key and pairs[np.uint64(2) * slot] != EMPTY:
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(cache=True, nogil=True)
def first_reserved(keys: Int64s) -> int:
    for i in range(len(keys)):
        if keys[i] == EMPTY:
            return i
    return len(keys)


@njit(cache=True, nogil=True)
def lookup(addresses: Any, masks: Any, keys: Int64s, rows: Int64s) -> int:
    """Fill `rows`; the position of the first reserved key, or N."""
    for i in range(len(keys)):
        key = keys[i]
        if key == EMPTY:
            return i
        mixed = mix64(np.uint64(key))
        shard = mixed >> _SHARD_SHIFT
        pairs = _shard(addresses[shard], masks[shard])
        at = np.uint64(2) * _find(pairs, masks[shard], mixed, key)
        rows[i] = pairs[at + np.uint64(1)] if pairs[at] == key else np.int64(-1)
    return len(keys)


@njit(cache=True, nogil=True)
def insert(
    addresses: Any, masks: Any, room: Int64s, keys_R: Int64s, free: Int64s, ends: Int64s,
    keys: Int64s, start: int, rows: Int64s, is_new: Any,
) -> int:  # fmt: skip
    """Insert keys[start:]; the position that needs a larger shard or more rows first, or N."""
    for i in range(start, len(keys)):
        key = keys[i]
        mixed = mix64(np.uint64(key))
        shard = mixed >> _SHARD_SHIFT
        pairs = _shard(addresses[shard], masks[shard])
        at = np.uint64(2) * _find(pairs, masks[shard], mixed, key)
        is_new[i] = pairs[at] != key
        if is_new[i]:
            if room[shard] == 0 or (ends[FREE] == 0 and ends[ROWS_END] == len(keys_R)):
                ends[FULL_SHARD] = np.int64(shard)
                return i
            if ends[FREE] > 0:
                ends[FREE] -= 1
                row = free[ends[FREE]]
            else:
                row = ends[ROWS_END]
                ends[ROWS_END] += 1
            keys_R[row] = key
            pairs[at] = key
            pairs[at + np.uint64(1)] = row
            room[shard] -= 1
        rows[i] = pairs[at + np.uint64(1)]
    return len(keys)


@njit(cache=True, nogil=True)
def remove(
    addresses: Any, masks: Any, room: Int64s, keys_R: Int64s, free: Int64s, ends: Int64s,
    keys: Int64s, rows: Int64s,
) -> None:  # fmt: skip
    for i in range(len(keys)):
        mixed = mix64(np.uint64(keys[i]))
        shard = mixed >> _SHARD_SHIFT
        mask = masks[shard]
        pairs = _shard(addresses[shard], mask)
        slot = _find(pairs, mask, mixed, keys[i])
        if pairs[np.uint64(2) * slot] != keys[i]:
            rows[i] = -1
            continue
        row = pairs[np.uint64(2) * slot + np.uint64(1)]
        _close_gap(pairs, mask, slot)
        room[shard] += 1
        rows[i] = row
        keys_R[row] = EMPTY
        free[ends[FREE]] = row
        ends[FREE] += 1


@njit(cache=True, nogil=True)
def _close_gap(pairs: Int64s, mask: np.uint64, gap: np.uint64) -> None:
    """Shift back every pair behind the gap that its search would no longer reach."""
    one, two = np.uint64(1), np.uint64(2)
    slot = (gap + one) & mask
    while pairs[two * slot] != EMPTY:
        home = mix64(np.uint64(pairs[two * slot])) & mask
        if ((slot - home) & mask) >= ((slot - gap) & mask):
            pairs[two * gap] = pairs[two * slot]
            pairs[two * gap + one] = pairs[two * slot + one]
            gap = slot
        slot = (slot + one) & mask
    pairs[two * gap] = EMPTY


@njit(cache=True, nogil=True)
def rehash(old: Int64s, new: Int64s) -> None:
    mask = np.uint64(len(new) // 2 - 1)
    for i in range(0, len(old), 2):
        if old[i] != EMPTY:
            at = np.uint64(2) * _find(new, mask, mix64(np.uint64(old[i])), old[i])
            new[at] = old[i]
            new[at + np.uint64(1)] = old[i + 1]


@njit(cache=True, nogil=True)
def place(
    addresses: Any, masks: Any, room: Int64s, ends: Int64s, keys_R: Int64s, start: int
) -> int:
    """Put the keys of rows start.. back; the row whose shard must grow first, or R."""
    for row in range(start, len(keys_R)):
        key = keys_R[row]
        if key == EMPTY:
            continue
        mixed = mix64(np.uint64(key))
        shard = mixed >> _SHARD_SHIFT
        if room[shard] == 0:
            ends[FULL_SHARD] = np.int64(shard)
            return row
        pairs = _shard(addresses[shard], masks[shard])
        at = np.uint64(2) * _find(pairs, masks[shard], mixed, key)
        pairs[at] = key
        pairs[at + np.uint64(1)] = row
        room[shard] -= 1
    return len(keys_R)
