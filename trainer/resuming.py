"""Where a trainer goes on: the newest version that is whole, and its place in the stream."""

import logging
from datetime import UTC, datetime
from typing import Any, NamedTuple

from service.blocks import Offsets
from service.errors import InputError, OffsetError, VersionError
from service.histories.segments import Segment, segments_of
from service.streams import Stream
from service.versions import Checkpoint, Manifest, VersionDirectory
from trainer.folding import folded
from trainer.state import Tensors

_log = logging.getLogger(__name__)

EARLIEST = "earliest"


class Resumed(NamedTuple):
    """What a version holds for the trainer."""

    manifest: Manifest
    tensors: Tensors
    meta: dict[str, Any]
    segments: list[Segment]


def newest_complete(versions: VersionDirectory) -> Resumed | None:
    """The newest version that training goes on from; None without any. Damaged ones are passed
    over, loudly. Raises VersionError if there are versions and none can be read."""
    numbers = versions.live()
    for number in reversed(numbers):
        try:
            manifest = versions.manifest(number)
            if manifest.format < 2:
                raise VersionError("format 1 is for servers alone; it was never in a release")
            chain, segments = Checkpoint.chain(versions, manifest), segments_of(versions, manifest)
            return Resumed(manifest, folded(chain), chain[-1].meta, segments)
        except VersionError as error:
            if isinstance(error.__cause__, OSError):
                raise  # storage is away: the version may be whole
            _log.error("version %d cannot be resumed from: %s", number, error)
    if numbers:
        raise VersionError(
            f"none of the versions {numbers} can be resumed from; restore one from a backup, or "
            "move the version directory away to train anew from the earliest record"
        )
    return None


def survived_erasure(versions: VersionDirectory, newest: Manifest) -> bool:
    """Whether older versions may hold what users had erased before the newest: the trainer died
    before it removed them."""
    erased = versions.decisions_until(newest.decisions).erase_generation
    for number in versions.numbers() if erased else ():
        try:
            if number < newest.number and versions.manifest(number).decisions < erased:
                return True
        except VersionError as error:
            _log.error("nobody can tell what version %d holds; remove it: %s", number, error)
    return False


class Start(NamedTuple):
    """Where reading begins."""

    offsets: Offsets
    lost: int
    """Records between the version and here that the stream no longer holds."""


def start_after(stream: Stream, manifest: Manifest, begin: str | None) -> Start:
    """The place after a version: its offsets, or, where the stream no longer holds these, what
    `begin` says: `earliest`, or the first record that was appended at a time or later.

    Raises OffsetError with the remedy where they are gone and nothing is said, InputError for a
    `begin` that cannot be read.
    """
    at_ms = None if begin in (None, EARLIEST) else _milliseconds(str(begin))
    offsets, lost = manifest.next_offsets(), 0
    for topic, partitions in offsets.items():
        other = manifest.topic_ids.get(topic) not in (None, stream.topic_id(topic))
        for partition, offset in partitions.items():
            if partition >= stream.partitions(topic):
                continue  # of which Intake tells
            low, end = stream.bounds(topic, partition)
            if low <= offset <= end and not other:
                continue
            if begin is None:
                raise OffsetError(_gone(topic, partition, offset, (low, end), manifest, other))
            if offset > end and not other:
                first = end  # an older copy of the stream: all of it was learned
            elif at_ms is None:
                first = low
            else:
                first = stream.first_since(topic, partition, at_ms)
            lost += 0 if other else max(0, first - offset)
            partitions[partition] = first
            _log.warning("%s/%d goes on at offset %d, not %d", topic, partition, first, offset)
    return Start(offsets, lost)


def _gone(
    topic: str, partition: int, offset: int, held: tuple[int, int], manifest: Manifest, other: bool
) -> str:
    if other:
        what = (
            f"topic {topic} is not the one that version {manifest.number} was trained from (it was "
            "deleted and made again)"
        )
    else:
        what = (
            f"offset {offset} of {topic}/{partition}, where version {manifest.number} ends, is "
            f"outside the stream ({held[0]} .. {held[1]})"
        )
    return (
        f"{what}; restore the stream, or accept what is lost and go on with what was learned: "
        "start the trainer once with --from earliest, or --from TIME"
    )


def _milliseconds(text: str) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"--from {text} cannot be read; write earliest, or a time like 2026-11-21T04:00"
        ) from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
