"""Rings in size classes: one arena of fixed-size records, a power-of-two piece of it per owner.

An owner starts with 8 places and doubles up to the limit; after that the oldest record is
overwritten. Freed pieces are reused by class, so a ring of the full length for everyone (thirty
times more on real data) is never paid. One thread at a time.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

FIRST_CLASS = 8

Longs = npt.NDArray[np.int64]


class Rings:
    """Rings of records of `fields` 64-bit integers each, for owners numbered 0, 1, 2, ..."""

    def __init__(self, fields: int, capacity: int) -> None:
        if capacity < FIRST_CLASS or capacity & (capacity - 1):
            raise ValueError(f"ring capacity {capacity} must be a power of two of at least 8")
        self.capacity = capacity
        self._arena = np.zeros((64 * FIRST_CLASS, fields), np.int64)
        self._used = np.zeros(1, np.int64)
        # Freed pieces of a class form a list through their own first word.
        self._free = np.full(capacity.bit_length(), -1, np.int64)
        self._base = np.zeros(0, np.int64)
        self._size = np.zeros(0, np.int64)
        self.count = np.zeros(0, np.int64)
        """Records pushed per owner since it was last cleared: the ordinal of the next one."""

    @property
    def nbytes(self) -> int:
        """Bytes of everything that grows."""
        return sum(a.nbytes for a in (self._arena, self._base, self._size, self.count))

    @property
    def live_records(self) -> int:
        """Records that a read can still return."""
        return int(np.minimum(self.count, self._size).sum())

    def reserve(self, owners: int) -> None:
        """Make owners 0 .. owners-1 exist (empty)."""
        if owners > len(self.count):
            size = max(owners, 2 * len(self.count), 64)
            self._base, self._size = grown(self._base, size), grown(self._size, size)
            self.count = grown(self.count, size)

    def push(self, owner_T: Longs, ordinal_T: Longs, record_TF: Longs) -> None:
        """Append one record to each named owner, in order; owners may repeat.

        `ordinal_T` are the records' numbers: 0 (re)starts an owner, any other number follows what
        the owner holds.
        """
        done = 0
        while (done := push(owner_T, ordinal_T, record_TF, done, *self.arrays())) < len(owner_T):
            self.grow()

    def arrays(self) -> tuple[Any, ...]:
        """What the compiled `push` and `holds` work on; stale once the rings grow."""
        return (
            self._arena, self._used, self._free, self._base, self._size, self.count, self.capacity,
        )  # fmt: skip

    def grow(self) -> None:
        """Double the arena."""
        self._arena = grown(self._arena, 2 * len(self._arena))

    def read(self, owner_B: Longs, most: int) -> tuple[Longs, Longs]:
        """The last `most` records of each owner, oldest first: offsets [B+1], records [T, F]."""
        length_B = np.minimum(np.minimum(self.count[owner_B], self._size[owner_B]), most)
        offsets = np.zeros(len(owner_B) + 1, np.int64)
        np.cumsum(length_B, out=offsets[1:])
        record_TF = np.empty((int(offsets[-1]), self._arena.shape[1]), np.int64)
        _read(owner_B, offsets, self._arena, self._base, self._size, self.count, record_TF)
        return offsets, record_TF

    def clear(self, owner_B: Longs) -> None:
        """Forget all records of the owners (each named once) and reuse their memory."""
        _clear(owner_B, self._arena, self._free, self._base, self._size, self.count)


def grown(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """A longer copy, zeros at its end."""
    longer = np.zeros((size, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer


@njit(cache=True, nogil=True)
def _class_of(size):
    kind = 0
    while FIRST_CLASS << kind < size:
        kind += 1
    return kind


@njit(cache=True, nogil=True)
def _release(base, size, arena, free):
    kind = _class_of(size)
    arena[base, 0] = free[kind]
    free[kind] = base


@njit(cache=True, nogil=True)
def _take(size, arena, used, free):
    """Base of a piece of `size` places, or -1 when the arena must grow first."""
    kind = _class_of(size)
    if free[kind] >= 0:
        base = free[kind]
        free[kind] = arena[base, 0]
        return base
    if used[0] + size > len(arena):
        return -1
    base = used[0]
    used[0] += size
    return base


@njit(cache=True, nogil=True)
def push(owners, ordinals, records, done, arena, used, free, base, size, count, capacity):
    """`Rings.push` from record `done` on; returns where the arena must grow first, or the end."""
    for t in range(done, len(owners)):
        owner, ordinal = owners[t], ordinals[t]
        held = size[owner]
        if held == 0 or (ordinal >= held and held < capacity):
            wanted = max(FIRST_CLASS, 2 * held)
            piece = _take(wanted, arena, used, free)
            if piece < 0:
                return t
            for i in range(max(0, ordinal - held), ordinal):
                arena[piece + i % wanted] = arena[base[owner] + i % held]
            if held:
                _release(base[owner], held, arena, free)
            base[owner], size[owner] = piece, wanted
        arena[base[owner] + ordinal % size[owner]] = records[t]
        count[owner] = ordinal + 1
    return len(owners)


@njit(cache=True, nogil=True)
def holds(owner, value, arena, used, free, base, size, count, capacity):
    """Whether the first field of a record that the owner holds has this value."""
    i, held = 0, min(count[owner], size[owner])
    while i < held and arena[base[owner] + i, 0] != value:
        i += 1
    return i < held


@njit(cache=True, nogil=True)
def _read(owners, offsets, arena, base, size, count, out):
    for b in range(len(owners)):
        owner = owners[b]
        ordinal = count[owner] - (offsets[b + 1] - offsets[b])
        for t in range(offsets[b], offsets[b + 1]):
            out[t] = arena[base[owner] + ordinal % size[owner]]
            ordinal += 1


@njit(cache=True, nogil=True)
def _clear(owners, arena, free, base, size, count):
    for owner in owners:
        if size[owner]:
            _release(base[owner], size[owner], arena, free)
        size[owner] = 0
        count[owner] = 0
