"""The head of a partition: how far the log is committed and how far it is on disk.

Two slots at bytes 0 and 512, each 76 bytes: generation, end and synced (each segment, position,
offset: 8 bytes per number), boot id (16), CRC-32 of those (4). A change goes to the slot
of the older generation, so a reader or a crash in the middle of it still finds the other slot.
The same file carries the lock of the partition's writers.
"""

import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from service.errors import StreamError
from service.streams.frames import Frame

_SLOT = struct.Struct("<7Q16s")
_CRC = struct.Struct("<I")
_SLOT_BYTES = 512
_ATTEMPTS = 100


class Place(NamedTuple):
    """Byte `position` in the segment whose base is `segment`, where record `offset` stands."""

    segment: int
    position: int
    offset: int

    def after(self, frame: Frame) -> "Place":
        """The place behind the frame that stands here."""
        return Place(self.segment, self.position + frame.size_bytes, self.offset + frame.number)


class Head(NamedTuple):
    """One committed state. `synced` and everything before it was on disk before it was written."""

    generation: int
    end: Place
    synced: Place
    boot: bytes

    def moved(self, end: Place | None = None, synced: Place | None = None) -> "Head":
        """The next state, with one place moved on."""
        return Head(self.generation + 1, end or self.end, synced or self.synced, self.boot)

    def pack(self) -> bytes:
        """The bytes of a slot."""
        fields = _SLOT.pack(self.generation, *self.end, *self.synced, self.boot)
        return fields + _CRC.pack(zlib.crc32(fields))

    @classmethod
    def unpack(cls, slot: bytes) -> "Head | None":
        """Read a slot; None if it was never, or only half, written."""
        if len(slot) < _SLOT.size + _CRC.size:
            return None
        fields = slot[: _SLOT.size]
        if _CRC.unpack_from(slot, _SLOT.size)[0] != zlib.crc32(fields):
            return None
        generation, a, b, c, d, e, f, boot = _SLOT.unpack(fields)
        return cls(generation, Place(a, b, c), Place(d, e, f), boot)


class HeadFile:
    """The file `head` of a partition, made if it is missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out; the kernel frees the lock when its holder dies."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def peek(self) -> Head | None:
        """The newest valid slot, if there is one."""
        slots = os.pread(self._descriptor, 2 * _SLOT_BYTES, 0)
        first, second = Head.unpack(slots[:_SLOT_BYTES]), Head.unpack(slots[_SLOT_BYTES:])
        if first is None or second is None:
            return first or second
        return max(first, second)

    def read(self) -> Head:
        """The newest committed state. Raises StreamError if the file holds none."""
        for _ in range(_ATTEMPTS):
            head = self.peek()
            if head is not None:
                return head
            time.sleep(0.001)  # two changes fell into one read of the file
        raise StreamError(f"{self.path} is damaged; stop every process, delete it, and start again")

    def write(self, head: Head) -> None:
        """Commit a state; the caller holds the lock."""
        slot = head.pack().ljust(_SLOT_BYTES, b"\0")
        os.pwrite(self._descriptor, slot, head.generation % 2 * _SLOT_BYTES)

    def sync(self) -> None:
        """Return when the head is on disk. Only a new head needs it: an old one is caught up."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; a lock on it goes with it."""
        os.close(self._descriptor)
