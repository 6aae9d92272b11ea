"""Where the joiner goes on: at the place of a version, or as near to it as the streams allow."""

import logging

import msgspec

from service.blocks import Offsets
from service.errors import OffsetError
from service.streams import Stream
from service.versions import Manifest
from trainer.joining.groups import CUT, SKIPPED, Groups
from trainer.joining.joiner import Facts, Joiner, Tensors
from trainer.joining.rereading import Source, reread

_log = logging.getLogger(__name__)


def resume_joining(
    joiner: Joiner, tensors: Tensors, manifest: Manifest, source: Source, start: Offsets
) -> int:
    """Make the joiner what it was when the version was cut, and have it go on at `start`.

    Returns how many records that mattered are no longer in the streams: impressions among them
    stay unlearned, and late actions on them are orphans.
    """
    if "facts" not in tensors:
        joiner.begin(start)
        return 0
    facts = msgspec.msgpack.decode(tensors["facts"].numpy().tobytes(), type=Facts)
    there = manifest.next_offsets()
    lost = reread(joiner, facts, source, there)
    if lost:
        _log.warning(
            "%d records before version %d that impressions still need are no longer in the "
            "streams: those impressions stay unlearned; keep streams for longer than "
            "3 * trainer.join_seconds + trainer.correct_seconds",
            lost, manifest.number,
        )  # fmt: skip
    if there != start:
        _jump(joiner, there, start, source.topic_ids_differ())
    return lost


def warn_of_short_retention(stream: Stream, joiner: Joiner) -> None:
    """Tell if a stream that drops old records holds less than the joiner may have to reread."""
    needed_ms = joiner.rules.matters_ms
    for topic, partitions in joiner.join_from.items():
        for partition in partitions:
            held_ms = _held_ms(stream, topic, partition)
            if held_ms is not None and held_ms < needed_ms:
                _log.warning(
                    "%s/%d holds the last %.0f s; a trainer that starts again may have to reread "
                    "%.0f s (3 * trainer.join_seconds + trainer.correct_seconds): keep the topic "
                    "for longer",
                    topic, partition, held_ms / 1000, needed_ms / 1000,
                )  # fmt: skip


def _held_ms(stream: Stream, topic: str, partition: int) -> int | None:
    """How much time lies between the first and the last record of a partition that has dropped
    some; None where nothing was dropped, or nobody can tell."""
    low, end = stream.bounds(topic, partition)
    if not 0 < low < end:
        return None
    try:
        first, last = (stream.read(topic, partition, at, 1) for at in (low, end - 1))
    except OffsetError:  # it has just left the stream
        return None
    return last[0].append_ms - first[0].append_ms if first and last else None


def _jump(joiner: Joiner, there: Offsets, here: Offsets, other_topics: bool) -> None:
    """Reading goes on elsewhere than where the joiner's state ends."""
    log = joiner.groups
    back = any(here[topic][p] < there[topic][p] for topic in there for p in there[topic])
    if other_topics or back:
        # The log cannot say so: what waits now is learned unless the trainer stops before.
        joiner.groups = Groups.at(here, log.number + 1, log.looked_ms)
    else:
        log.end(there, CUT)
        log.end(here, SKIPPED)
    joiner.adopt(joiner.rules, here)
