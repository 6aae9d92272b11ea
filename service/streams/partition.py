"""One partition on disk: segments of frames behind a head, shared by any number of processes."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from service.streams.files import fsync
from service.streams.frames import Body
from service.streams.head import Head, HeadFile, Place
from service.streams.protocol import Record
from service.streams.reader import Reader
from service.streams.recovery import boot_id, recover
from service.streams.segment import Segment, log_path


class Partition:
    """Appends under a lock, reads without one, syncs when told to; safe from several threads."""

    def __init__(self, directory: Path, segment_bytes: int) -> None:
        """Open or make the partition; the first opening after a boot checks what the disk kept."""
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        self._sync_lock = threading.Lock()
        self._segment: Segment | None = None
        self._reader = Reader(directory)
        self._head = HeadFile(directory / "head")
        with self._exclusive():
            head = self._head.peek()
            if head is None or head.boot != boot_id():
                end = recover(directory, head)
                self._head.write(Head(head.generation + 1 if head else 1, end, end, boot_id()))
                self._head.sync()
                fsync(directory)

    def append(self, bodies: Sequence[Body]) -> int:
        """Write the bodies as frames, commit them together, return the offset of the first record.

        (1) take the lock, (2) drop what a dead writer left beyond the end, (3) write the frames
        there, (4) move the end in the head. Death before (4) leaves the log as it was.
        """
        with self._exclusive():
            head = self._head.read()
            place = head.end
            if place.position >= self._segment_bytes:
                place = Place(place.offset, 0, place.offset)
            segment = self._open(place)
            segment.cut(place.position)
            for body in bodies:
                place = segment.write(place, body)
            self._head.write(head.moved(end=place))
            return head.end.offset

    def read(self, offset: int, max_records: int) -> list[Record]:
        """As Stream.read."""
        with self._read_lock:
            return self._reader.read(self._head.read(), offset, max_records)

    def bounds(self) -> tuple[int, int]:
        """As Stream.bounds."""
        with self._read_lock:
            head = self._head.read()
            return self._reader.bases(head)[0], head.end.offset

    def sync(self) -> None:
        """Bring everything committed before the call to disk, then say so in the head."""
        with self._sync_lock:
            head = self._head.read()
            if head.synced == head.end:
                return
            with self._read_lock:
                bases = self._reader.bases(head)
            for base in bases:
                if base >= head.synced.segment:
                    fsync(log_path(self._directory, base))
            with self._exclusive():
                now = self._head.read()
                self._head.write(now.moved(synced=max(now.synced, head.end)))

    def close(self) -> None:
        """Close every file. Nothing else may be called any more."""
        if self._segment is not None:
            self._segment.close()
        self._reader.close()
        self._head.close()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other threads of this process and other processes out."""
        with self._write_lock, self._head.locked():
            yield

    def _open(self, place: Place) -> Segment:
        """The segment to write to; a new one is entered into its directory for good."""
        if self._segment is None or self._segment.base != place.segment:
            if self._segment is not None:
                self._segment.close()
                self._segment = None
            self._segment = Segment(self._directory, place.segment, create=place.position == 0)
            if place.position == 0:
                fsync(self._directory)
        return self._segment
