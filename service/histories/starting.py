"""Where histories begin: what the newest version holds of them, and the log after it."""

import logging

from service.action_types import ActionTypes
from service.errors import OffsetError, VersionError
from service.histories.segments import Segment, segments_of
from service.intake import Intake
from service.intake_settings import IntakeSettings
from service.streams import Stream
from service.versions import Manifest, VersionDirectory

log = logging.getLogger(__name__)

TOPIC = "actions"


def newest_histories(directory: VersionDirectory) -> tuple[Manifest, list[Segment]] | None:
    """Of the newest version whose histories can be read; None where there is none.

    Raises OSError or VersionError while the versions cannot be listed.
    """
    for number in reversed(directory.numbers()):
        try:
            manifest = directory.manifest(number)
            return manifest, segments_of(directory, manifest)
        except VersionError as error:
            log.error("histories not restored from version %d: %s", number, error)
    return None


def alone(intake: IntakeSettings) -> IntakeSettings:
    """How histories read the log: one user's events share a partition, so they need no merge and
    wait for nothing."""
    return intake.model_copy(update={"topics": (TOPIC,), "idle_ms": 0})


def intake_after(
    stream: Stream, settings: IntakeSettings, types: ActionTypes, manifest: Manifest | None
) -> Intake:
    """The log from where a version's histories end, or else from its first record.

    Raises OffsetError for another log than the one that was trained on.
    """
    if manifest is None:
        return Intake(stream, settings, types, merged=False)
    trained, found = manifest.topic_ids.get(TOPIC), stream.topic_id(TOPIC)
    if trained not in (None, found):
        raise OffsetError(f"version {manifest.number} learned topic {trained}, here is {found}")
    offsets, watermark_ms = manifest.next_offsets(), manifest.watermark_ms
    return Intake(stream, settings, types, offsets, watermark_ms, merged=False)


def intake_again(
    stream: Stream, settings: IntakeSettings, types: ActionTypes, before: Intake, topic_id: str
) -> Intake:
    """The log after it was no longer the one that `before` read: from where that stood, as far as
    this is in the log; partitions that are new, and a topic that was made again (it was
    `topic_id`), from their first record."""
    if stream.topic_id(TOPIC) != topic_id:
        return Intake(stream, settings, types, merged=False)
    offsets: dict[int, int] = {}
    for partition in range(stream.partitions(TOPIC)):
        low, end = stream.bounds(TOPIC, partition)
        offsets[partition] = min(max(before.offsets[TOPIC].get(partition, low), low), end)
    return Intake(stream, settings, types, {TOPIC: offsets}, before.watermark_ms, before.largest_ms)
