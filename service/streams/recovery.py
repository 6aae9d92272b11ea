"""What a partition does after a boot: keep what the disk kept, drop what it lost."""

import logging
import uuid
from functools import cache
from pathlib import Path

from service.errors import StreamError
from service.streams import segment as segments
from service.streams.files import fsync
from service.streams.head import Head, Place
from service.streams.segment import Segment

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

logger = logging.getLogger(__name__)


@cache
def boot_id() -> bytes:
    """16 bytes that change when the machine starts; where none are known, with every process."""
    try:
        return uuid.UUID(_BOOT_ID.read_text().strip()).bytes
    except (OSError, ValueError):
        return uuid.uuid4().bytes


def recover(directory: Path, head: Head | None) -> Place:
    """Return the end of the whole frames that follow the last synced place; drop the rest.

    After a power loss the head may be older or newer than the frames beside it, so that frames
    beyond its end are kept if they are whole. Without a head the walk starts at the first
    segment, and damage before the last one is an error (StreamError), not an end.
    """
    bases = segments.bases(directory) or [0]
    place = head.synced if head else Place(bases[0], 0, bases[0])
    while True:
        place = _whole_frames(directory, place)
        if place.offset not in bases or place.offset == place.segment:
            break
        place = Place(place.offset, 0, place.offset)
    lost = [base for base in bases if base > place.segment]
    if lost and head is None:
        raise StreamError(f"{directory} is damaged before offset {lost[0]} and has no head")
    for base in lost:
        segments.log_path(directory, base).unlink()
        segments.index_path(directory, base).unlink(missing_ok=True)
    if head and place.offset < head.end.offset:
        logger.warning(
            "%s lost records %d to %d with the power", directory, place.offset, head.end.offset - 1
        )
    return place


def _whole_frames(directory: Path, place: Place) -> Place:
    """Walk a segment from `place`, cut it behind the last whole frame, and sync it."""
    segment = Segment(directory, place.segment, create=place.position == 0)
    try:
        if segment.size_bytes() < place.position:
            raise segment.damaged(segment.size_bytes(), "the file lost synced frames")
        place = segment.last_whole(place)
        segment.cut(place.position)
        fsync(segment.path)
        return place
    finally:
        segment.close()
