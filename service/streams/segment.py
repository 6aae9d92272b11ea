"""One segment: a file of frames, named after its first offset, and a sparse index beside it."""

import logging
import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from service.errors import StreamError
from service.streams import frames
from service.streams.frames import Body, Frame
from service.streams.head import Place

INDEX_STEP_BYTES = 64 * 1024
"""Entry i of the index names the frame that covers byte i * INDEX_STEP_BYTES of the segment."""

_ENTRY = struct.Struct("<QQ")  # offset and position of a frame
_CHUNK_BYTES = 256 * 1024

logger = logging.getLogger(__name__)


class Segment:
    """The files BASE.log and BASE.index, BASE being the offset of the first record.

    The index is a hint: it is written before the frames it names are committed, and an entry is
    believed only if a frame with that offset stands at that position.
    """

    def __init__(self, directory: Path, base: int, create: bool = False) -> None:
        self.base = base
        self.path = log_path(directory, base)
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        try:
            self._log = os.open(self.path, flags, 0o644)
        except FileNotFoundError:
            raise StreamError(f"segment {self.path} is missing; restore it") from None
        self._index = os.open(index_path(directory, base), flags | os.O_CREAT, 0o644)

    def size_bytes(self) -> int:
        """How long the file is, whatever was committed of it."""
        return os.fstat(self._log).st_size

    def write(self, place: Place, body: Body) -> Place:
        """Write one frame at `place` and return the place after it."""
        position = place.position
        rest = memoryview(body.header(place.offset) + body.data)
        end = position + len(rest)
        while rest:
            rest = rest[os.pwrite(self._log, rest, end - len(rest)) :]
        self._mark(place.offset, position, end)
        return Place(self.base, end, place.offset + body.number)

    def cut(self, position: int) -> None:
        """Drop what a writer left behind `position` when it died."""
        if self.size_bytes() > position:
            os.ftruncate(self._log, position)

    def frames(self, place: Place, limit: int) -> Iterator[tuple[Place, Frame]]:
        """Every frame from `place` to byte `limit`, each with its place.

        Checks that frames follow each other without gaps, not their CRC. Raises StreamError
        naming file and position.
        """
        _, position, offset = place
        chunk, chunk_at = b"", position
        while position < limit:
            frame = frames.find(chunk, position - chunk_at)
            if frame is None or position - chunk_at + frame.size_bytes > len(chunk):
                chunk = os.pread(self._log, min(_CHUNK_BYTES, limit - position), position)
                chunk_at, frame = position, self._whole(chunk, position, limit)
            if frame.offset != offset:
                raise self.damaged(position, f"the frame begins at {frame.offset}, not {offset}")
            place = Place(self.base, position, offset)
            yield place, frame
            _, position, offset = place.after(frame)

    def verified(self, place: Place, limit: int) -> Iterator[tuple[Place, Frame]]:
        """As `frames`, with the CRC of each checked."""
        for found, frame in self.frames(place, limit):
            if not frame.intact:
                raise self.damaged(found.position, "its CRC does not match")
            yield found, frame

    def seek(self, offset: int, limit: int) -> Place:
        """The place of the frame that holds `offset`, which must be in the segment."""
        for place, frame in self.frames(self._nearest(offset, limit), limit):
            if offset < place.offset + frame.number:
                return place
        raise self.damaged(limit, f"the segment ends before offset {offset}")

    def last_whole(self, place: Place) -> Place:
        """The place behind the last of the whole frames from `place` on; they are indexed anew."""
        try:
            for found, frame in self.verified(place, self.size_bytes()):
                place = found.after(frame)
                self._mark(found.offset, found.position, place.position)
        except StreamError as error:
            logger.info("end of the log: %s", error)
        return place

    def damaged(self, position: int, reason: str) -> StreamError:
        """The error for a bad frame, with the remedy."""
        return StreamError(
            f"{self.path} is damaged at byte {position}: {reason}; restore the file, or start a "
            "new topic"
        )

    def close(self) -> None:
        """Close both files."""
        os.close(self._log)
        os.close(self._index)

    def _whole(self, chunk: bytes, position: int, limit: int) -> Frame:
        """The frame at the start of `chunk`, read further if it is longer than that."""
        frame = frames.find(chunk, 0)
        if frame is None or position + frame.size_bytes > limit:
            raise self.damaged(position, "no whole frame stands there")
        if frame.size_bytes > len(chunk):
            frame = frame._replace(chunk=os.pread(self._log, frame.size_bytes, position))
        if frame.size_bytes > len(frame.chunk):
            raise self.damaged(position, "the file ends inside the frame")
        return frame

    def _mark(self, offset: int, position: int, end: int) -> None:
        first, last = -(-position // INDEX_STEP_BYTES), (end - 1) // INDEX_STEP_BYTES
        if first <= last:
            entries = _ENTRY.pack(offset, position) * (last - first + 1)
            os.pwrite(self._index, entries, first * _ENTRY.size)

    def _nearest(self, offset: int, limit: int) -> Place:
        """The last indexed frame that does not begin after `offset`."""
        count = -(-limit // INDEX_STEP_BYTES)
        entries = os.pread(self._index, count * _ENTRY.size, 0)
        numbers = memoryview(entries[: len(entries) // _ENTRY.size * _ENTRY.size]).cast("Q")
        at = bisect_right(numbers[::2], offset) - 1
        if at > 0:
            found, position = numbers[2 * at], numbers[2 * at + 1]
            frame = frames.find(os.pread(self._log, frames.HEADER_BYTES, position), 0)
            if frame is not None and frame.offset == found and position < limit:
                return Place(self.base, position, found)
        return Place(self.base, 0, self.base)


def log_path(directory: Path, base: int) -> Path:
    """The file of frames of the segment that begins at offset `base`."""
    return directory / f"{base:020}.log"


def index_path(directory: Path, base: int) -> Path:
    """The sparse index of the segment that begins at offset `base`."""
    return directory / f"{base:020}.index"


def bases(directory: Path) -> list[int]:
    """The first offsets of the segments in a directory, ascending."""
    return sorted(int(path.stem) for path in directory.glob("*.log"))
