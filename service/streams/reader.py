"""Reading a partition: from an offset to verified frames, across segments, without a lock."""

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from service.errors import OffsetError, StreamError
from service.streams import segment as segments
from service.streams.frames import Frame
from service.streams.head import Head, Place
from service.streams.protocol import Record
from service.streams.segment import Segment

_REMEMBERED_PLACES = 64


class Reader:
    """One open segment, and where the readers of this process stand. One thread at a time.

    It trusts a head for how far the log goes: nothing before the end of a head ever changes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._segment: Segment | None = None
        self._bases: list[int] = []
        self._places: dict[int, Place] = {}

    def read(self, head: Head, offset: int, max_records: int) -> list[Record]:
        """Up to `max_records` records from `offset` on. Raises OffsetError outside the log."""
        self._check(offset, head)
        records: list[Record] = []
        if offset == head.end.offset or max_records < 1:
            return records
        for place, frame in self._frames(offset, head.end):
            records += frame.records(offset - place.offset, max_records - len(records))
            offset = records[-1].offset + 1
            if len(records) == max_records:
                within = offset < place.offset + frame.number
                self._remember(offset, place if within else place.after(frame))
                return records
        self._remember(offset, head.end)
        return records

    def bases(self, head: Head) -> list[int]:
        """First offsets of the committed segments, ascending."""
        if not self._bases or self._bases[-1] != head.end.segment:
            found = segments.bases(self._directory)
            self._bases = [base for base in found if base <= head.end.segment]
        if not self._bases:
            raise StreamError(f"{self._directory} has lost its segments; restore them")
        return self._bases

    def close(self) -> None:
        """Close the open segment."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _check(self, offset: int, head: Head) -> None:
        low, end = self.bases(head)[0], head.end.offset
        if not low <= offset <= end:
            raise OffsetError(
                f"offset {offset} is not in {self._directory}, which holds {low} up to {end}; "
                "read from one of these"
            )

    def _frames(self, offset: int, end: Place) -> Iterator[tuple[Place, Frame]]:
        """Verified frames from the one that holds `offset` up to `end`."""
        place = self._places.pop(offset, None) or self._seek(offset, end)
        while True:
            segment = self._open(place.segment)
            for found, frame in segment.verified(place, _limit(segment, end)):
                yield found, frame
                place = found.after(frame)
            if place == end:
                return
            if place.segment == end.segment or place.offset == place.segment:
                raise segment.damaged(place.position, "records are missing")
            place = Place(place.offset, 0, place.offset)

    def _seek(self, offset: int, end: Place) -> Place:
        segment = self._open(self._bases[bisect_right(self._bases, offset) - 1])
        return segment.seek(offset, _limit(segment, end))

    def _open(self, base: int) -> Segment:
        if self._segment is None or self._segment.base != base:
            self.close()
            self._segment = Segment(self._directory, base)
        return self._segment

    def _remember(self, offset: int, place: Place) -> None:
        """Keep where the reader that asked will probably go on."""
        self._places[offset] = place
        if len(self._places) > _REMEMBERED_PLACES:
            self._places.pop(next(iter(self._places)))


def _limit(segment: Segment, end: Place) -> int:
    """A segment that is followed by another ends with its file, the last one at the head."""
    return end.position if segment.base == end.segment else segment.size_bytes()
