"""From streams to events: merge, acceptance (`service.blocks`) and the watermark, in one reducer.

The trainer and every history writer read through it, so that they accept the same actions in the
same order. Acceptance is a function of the records alone, never of a wall clock: how late or how
early an event is, is judged against its record's append time.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from service.action_types import ActionTypes
from service.actions import Action, Impression
from service.blocks import Block, BlockBuilder, Offsets
from service.errors import OffsetError, StreamError
from service.intake_settings import IntakeSettings
from service.items import Item
from service.streams import Record, Stream

READ_RECORDS = 4096
POLL_SECONDS = 0.01


@dataclass
class _Partition:
    """One partition being read: its buffered records and the largest event time seen so far."""

    topic: str
    number: int
    next_offset: int
    largest_ms: int = 0
    buffer: list[Record] = field(default_factory=list)
    used: int = 0
    empty_since: float | None = None
    over: bool = False
    """Nothing is left, and nothing will be appended any more."""

    @property
    def head(self) -> Record | None:
        return self.buffer[self.used] if self.used < len(self.buffer) else None

    @property
    def place(self) -> tuple[int, str, int]:
        """The merge takes the head of the partition with the smallest place."""
        return self.largest_ms, self.topic, self.number

    def fill(self, stream: Stream) -> None:
        if self.used < len(self.buffer):
            return
        self.buffer = stream.read(self.topic, self.number, self.next_offset, READ_RECORDS)
        self.used = 0
        if self.buffer:
            self.empty_since = None
        elif self.empty_since is None:
            self.empty_since = time.monotonic()

    def drained(self, stream: Stream) -> bool:
        """Whether nothing is left, now that nothing will be appended any more. A stream that is
        away may hold more."""
        with suppress(StreamError):
            self.over = self.over or stream.drained(self.topic, self.number, self.next_offset)
        return self.over


class Intake:
    """Reads one block after another from all partitions of its topics."""

    def __init__(
        self,
        stream: Stream,
        settings: IntakeSettings,
        types: ActionTypes,
        offsets: Offsets | None = None,
        watermark_ms: int = 0,
        largest_ms: Mapping[str, int] | None = None,
        merged: bool = True,
    ) -> None:
        """Start at `offsets` (default: the first record held of each partition).

        Not merged, records of several partitions come in the order in which they are at hand: who
        needs only each user's in order reads three times as many.

        Raises OffsetError if an offset is no longer, or not yet, in the stream.
        """
        self._stream = stream
        self._settings = settings
        self._codes = types.codes
        self._merged = merged
        self._future_ms = settings.max_future_seconds * 1000
        self._late_ms = settings.max_late_seconds * 1000
        self._decode_action: Callable[[bytes], Any] = msgspec.json.Decoder(Action).decode
        self._decode_impression: Callable[[bytes], Any] = msgspec.json.Decoder(Impression).decode
        self._decode_item: Callable[[bytes], Any] = msgspec.json.Decoder(Item).decode
        self._partitions = [
            _Partition(topic, number, self._start(topic, number, offsets))
            for topic in sorted(settings.topics)
            for number in range(stream.partitions(topic))
        ]
        for p in self._partitions:
            p.largest_ms = (largest_ms or {}).get(f"{p.topic}:{p.number}", 0)
        self.watermark_ms = watermark_ms

    @property
    def offsets(self) -> Offsets:
        """Next record of each partition: everything before it has been handed out."""
        offsets: Offsets = {topic: {} for topic in self._settings.topics}
        for p in self._partitions:
            offsets[p.topic][p.number] = p.next_offset
        return offsets

    @property
    def at_end(self) -> bool:
        """Whether all that the streams held at this call has been handed out."""
        return all(
            p.head is None and self._stream.drained(p.topic, p.number, p.next_offset)
            for p in self._partitions
        )

    @property
    def largest_ms(self) -> dict[str, int]:
        """Largest event time handed out per partition, as `topic:partition`: the merge's state."""
        return {f"{p.topic}:{p.number}": p.largest_ms for p in self._partitions}

    def block(
        self,
        max_records: int,
        wait_seconds: float,
        ended: Callable[[], bool] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Block | None:
        """The next `max_records` records, or fewer once `wait_seconds` have passed; None if none.

        With `ended`, an empty partition is waited for until `ended()` says that nothing more will
        be appended to any, and all that was has been read: then blocks depend on the stream alone
        and a replay repeats. `stopped` ends all waiting.
        """
        deadline = time.monotonic() + wait_seconds
        builder = BlockBuilder(self._codes, self._future_ms, self._late_ms)
        while builder.records < max_records:
            final = ended is not None and ended()
            chosen = self._next(final, patient=ended is not None)
            if chosen is not None:
                self._take(chosen, builder, max_records)
            elif self._over or time.monotonic() >= deadline or stopped():
                break
            else:
                time.sleep(POLL_SECONDS)
        if not builder.records:
            return None
        self.watermark_ms = max(self.watermark_ms, self._watermark())
        return builder.build(self.offsets, self.watermark_ms)

    def _start(self, topic: str, number: int, offsets: Offsets | None) -> int:
        low, end = self._stream.bounds(topic, number)
        if offsets is None or topic not in offsets:
            return low
        if offsets[topic].keys() != set(range(self._stream.partitions(topic))):
            raise OffsetError(
                f"topic {topic} has {self._stream.partitions(topic)} partitions, the offsets are "
                f"of partitions {sorted(offsets[topic])}: restore the stream's partitions, or "
                "train anew from the earliest record with an empty version directory"
            )
        offset = offsets[topic][number]
        if not low <= offset <= end:
            raise OffsetError(
                f"offset {offset} of {topic}/{number} is outside the stream ({low} .. {end}): "
                "start from a stream that still holds it, or train anew from the earliest record "
                "with an empty version directory"
            )
        return offset

    def _next(self, final: bool, patient: bool) -> _Partition | None:
        """The partition whose head comes next; None while one that may still speak is empty."""
        best: _Partition | None = None
        for p in self._partitions:
            p.fill(self._stream)
            if p.head is None:
                if not (p.drained(self._stream) if final else not patient and self._idle(p)):
                    return None
            elif best is None or p.place < best.place:
                best = p
        return best

    @property
    def _over(self) -> bool:
        return all(p.over and p.head is None for p in self._partitions)

    def _idle(self, p: _Partition) -> bool:
        since = time.monotonic() if p.empty_since is None else p.empty_since
        return (time.monotonic() - since) * 1000 >= self._settings.idle_ms

    def _take(self, p: _Partition, builder: BlockBuilder, max_records: int) -> None:
        """Hand records of `p` to the builder until another partition's head comes first."""
        others = (o.place for o in self._partitions if o is not p and o.head)
        bound = min(others, default=None) if self._merged else None
        if p.topic == "actions":
            add, decode = builder.action, self._decode_action
        elif p.topic == "items":
            add, decode = builder.item, self._decode_item
        else:
            add, decode = builder.impression, self._decode_impression
        while p.used < len(p.buffer) and builder.records < max_records:
            if bound is not None and p.place > bound:
                return
            record = p.buffer[p.used]
            p.used += 1
            p.next_offset = record.offset + 1
            builder.records += 1
            builder.append_ms.append(record.append_ms)
            at_ms = add(record, (p.topic, p.number), decode)
            p.largest_ms = max(p.largest_ms, at_ms)

    def _watermark(self) -> int:
        """Event time up to which every partition that spoke has been read."""
        spoke = [p.largest_ms for p in self._partitions if p.largest_ms and p.topic == "actions"]
        return min(spoke, default=0)
