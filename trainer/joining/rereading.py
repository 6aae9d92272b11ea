"""The joiner's state made again from the streams, without training.

Group after group is read as it was read then, and looked at as it was looked at then; what comes of
it was learned before, and is dropped.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from service.action_types import ActionTypes
from service.actions import Action, Impression
from service.blocks import Block, BlockBuilder, Offsets
from service.errors import OffsetError
from service.histories.erased import Erased
from service.intake import POLL_SECONDS, READ_RECORDS
from service.intake_settings import IntakeSettings
from service.streams import Record, Stream
from trainer.joining.groups import SKIPPED, Groups
from trainer.joining.joiner import Facts, Joiner
from trainer.joining.rules import JoinRules


@dataclass(frozen=True)
class Source:
    """Where the records come from, and how they were accepted."""

    stream: Stream
    settings: IntakeSettings
    types: ActionTypes
    topic_ids: dict[str, str]
    """Of the topics that the state is of."""
    erased: Erased
    """Whose records had been left out."""

    def topic_ids_differ(self) -> bool:
        """Whether a topic was deleted and made again since."""
        return any(self.stream.topic_id(t) != known for t, known in self.topic_ids.items())


def reread(joiner: Joiner, facts: Facts, source: Source, offsets: Offsets) -> int:
    """Become, while still empty, the joiner that had these facts at these offsets; how many records
    that matter are no longer in the streams. Impressions among them stay unlearned."""
    rules = joiner.rules
    joiner.rules = JoinRules(facts.join_ms, facts.correct_ms, rules.future_ms)
    joiner.loose_from, joiner.dropped = facts.loose_from, facts.dropped
    joiner.gone, joiner.unusable = dict(facts.gone), set(facts.unusable)
    log = facts.groups
    cursors = [
        _Cursor(source, topic, partition, offset)
        for topic, partitions in log.places(log.starts).items()
        for partition, offset in partitions.items()
    ]
    joiner.groups = Groups(log.names, log.starts, log.ends, [], looked_ms=log.start_ms)
    for number, group in enumerate(log.rows, log.first):
        for cursor, records in zip(cursors, group.counts, strict=True):
            if group.watermark_ms == SKIPPED:
                cursor.skip(records)
                continue
            for block in cursor.blocks(cursor.offset + records):
                joiner.keep(block.without(source.erased), number)
        if group.watermark_ms >= 0:
            joiner.look(group.watermark_ms)
            joiner.groups.looked_ms = group.watermark_ms
    for cursor in cursors:
        for block in cursor.blocks(offsets[cursor.topic][cursor.partition]):
            joiner.keep(block.without(source.erased), log.number)
    joiner.groups, joiner.gone, joiner.unusable = log, dict(facts.gone), set()
    joiner.give_up(facts.unusable)
    joiner.adopt(rules, offsets)
    return sum(cursor.lost for cursor in cursors)


@dataclass
class _Cursor:
    """Reads one partition from one place to the next."""

    source: Source
    topic: str
    partition: int
    offset: int
    lost: int = 0
    _buffer: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        known = self.source.topic_ids.get(self.topic)
        self._gone = known not in (None, self.source.stream.topic_id(self.topic))
        self._decode_action = msgspec.json.Decoder(Action).decode
        self._decode_impression = msgspec.json.Decoder(Impression).decode

    def skip(self, records: int) -> None:
        """Leave records out."""
        self.offset, self._buffer = self.offset + records, []

    def blocks(self, end: int) -> Iterator[Block]:
        """The records before `end`, a few thousand at a time."""
        while records := self._records(end):
            yield self._block(records)

    def _records(self, end: int) -> list[Record]:
        """The next ones; none once all before `end` were returned or are lost."""
        while self.offset < end:
            if not self._buffer:
                self._buffer = self._read(end)
                continue
            taken = [record for record in self._buffer if record.offset < end]
            self._buffer = self._buffer[len(taken) :]
            self.offset = taken[-1].offset + 1 if taken else end
            if taken:
                return taken
        return []

    def _read(self, end: int) -> list[Record]:
        low, high = (end, end) if self._gone else self.source.stream.bounds(*self._place)
        first = min(low, end) if self.offset < low else self.offset
        if first >= high:  # an older copy of the stream ends here
            first = end
        if first > self.offset:
            self.lost, self.offset = self.lost + first - self.offset, first
            return []
        try:
            records = self.source.stream.read(*self._place, self.offset, READ_RECORDS)
        except OffsetError:  # it has just left the stream
            return []
        if not records:
            time.sleep(POLL_SECONDS)
        return records

    @property
    def _place(self) -> tuple[str, int]:
        return self.topic, self.partition

    def _block(self, records: list[Record]) -> Block:
        settings, source = self.source.settings, self._place
        builder = BlockBuilder(
            self.source.types.codes,
            settings.max_future_seconds * 1000,
            settings.max_late_seconds * 1000,
        )
        for record in records:
            if self.topic == "actions":
                builder.action(record, source, self._decode_action)
            else:
                builder.impression(record, source, self._decode_impression)
        return builder.build({}, 0)
