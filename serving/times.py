"""When buckets are full again: by 64-bit key, in bounded memory, of one process or of several.

A key that is not there has a full bucket, so that forgetting one whose time is over forgets
nothing. Times are monotonic seconds, which all processes of a machine share.
"""

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Callable
from typing import Protocol

WAYS = 8
"""Places where a key may stand in shared memory."""
_SET = struct.Struct(f"={WAYS}q{WAYS}d")
_KEY, _TIME = struct.Struct("=q"), struct.Struct("=d")

Change = Callable[[float], float | None]
"""From when a bucket is full (0 if nothing is known) to when it is then; None changes nothing."""


class Times(Protocol):
    """Two exist: `OwnTimes` and `SharedTimes`."""

    def change(self, key: int, change: Change) -> None:
        """Read and write the time of a key, while nobody else does."""
        ...


class OwnTimes:
    """Of this process. Of more keys than `most`, those changed longest ago are forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._full_at: dict[int, float] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._full_at)

    def change(self, key: int, change: Change) -> None:
        """As Times.change."""
        with self._lock:
            full_at = change(self._full_at.get(key, 0.0))
            if full_at is None:
                return
            self._full_at.pop(key, None)  # the newest stands last
            self._full_at[key] = full_at
            if len(self._full_at) > self._most:
                del self._full_at[next(iter(self._full_at))]


class SharedTimes:
    """Of all processes that have the file open: sets of WAYS keys, each under a lock of its own.

    Of more keys than their set holds, the one whose bucket is full first is forgotten. The kernel
    frees the locks of a process that dies.
    """

    def __init__(self, file: int, first_set: int, sets: int) -> None:
        """file: descriptor of a file of `size_bytes(first_set + sets)` or more."""
        self._file, self._first, self._sets = file, first_set, sets
        self._memory = mmap.mmap(file, size_bytes(first_set + sets))
        self._lock = threading.Lock()
        """Locks of files are those of a process, whatever its threads do."""

    def change(self, key: int, change: Change) -> None:
        """As Times.change."""
        place = self._first + key % self._sets
        with self._lock:
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, place)
            try:
                self._change(place * _SET.size, key, change)
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    def _change(self, start: int, key: int, change: Change) -> None:
        values = _SET.unpack_from(self._memory, start)
        keys, times = values[:WAYS], values[WAYS:]
        known = key in keys
        way = keys.index(key) if known else times.index(min(times))
        full_at = change(times[way] if known else 0.0)
        if full_at is not None:
            _KEY.pack_into(self._memory, start + way * _KEY.size, key)
            _TIME.pack_into(self._memory, start + WAYS * _KEY.size + way * _TIME.size, full_at)


def size_bytes(sets: int) -> int:
    """Bytes of so many sets."""
    return sets * _SET.size


def shared_file(sets: int) -> int:
    """Descriptor of memory for so many sets, empty, to be inherited by processes."""
    file = os.memfd_create("freshet-times")
    os.ftruncate(file, size_bytes(sets))
    return file
