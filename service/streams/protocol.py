"""What every stream offers: ordered, durable, partitioned logs of opaque payloads."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol


class Record(NamedTuple):
    """One payload with its place. `append_ms` is milliseconds since the epoch. The embedded log
    keeps no keys; elsewhere a payload may be absent (b""), and then the key says what is gone."""

    offset: int
    append_ms: int
    payload: bytes
    key: bytes = b""


class Lag(NamedTuple):
    """How a reader stands in one topic."""

    records: int
    """What the stream holds and the reader has not read."""
    margin: float
    """Share of what the stream holds that lies before the reader, in the partition where it is
    smallest: at 0 the records deleted next are those that it needs next."""


def lag_of(places: Iterable[tuple[int, int, int]]) -> Lag:
    """The lag of a reader by (first offset held, next offset, offset of the reader) of each of
    its partitions."""
    records, margin = 0, 1.0
    for low, end, at in places:
        records += max(0, end - at)
        if at < end:
            margin = min(margin, max(0, at - low) / (end - low))
    return Lag(records, margin)


class Stream(Protocol):
    """Topics of partitions; the offsets of a partition's records ascend, and may have gaps.

    Methods may be called from several threads. They raise StreamError, and OffsetError for an
    offset that is not in the partition.
    """

    def topic_id(self, topic: str) -> str:
        """The identity of the topic: another one once the topic was deleted and made again."""
        ...

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has: they are numbered from 0."""
        ...

    def append(
        self,
        topic: str,
        partition: int,
        payloads: Sequence[bytes],
        append_ms: int | Sequence[int] | None = None,
        keys: Sequence[bytes] | None = None,
    ) -> int:
        """Append all payloads in their order and return the offset of the first.

        Once it returns, the records survive the death of any process (for power loss see `sync`).
        `append_ms` is one time for all, one per payload, or None for the stream's own clock.
        `keys`, one per payload, are for other readers of the log; who appends has chosen the
        partition by them (`service.actions.partition_of`).
        """
        ...

    def append_keyed(
        self,
        topic: str,
        payloads: Sequence[bytes],
        keys: Sequence[bytes],
        append_ms: int | Sequence[int] | None = None,
    ) -> None:
        """Append every payload to the partition of its key, those of a partition in their order.

        As `append`, but partitions are on their own: after an error some may have taken theirs.
        """
        ...

    def read(self, topic: str, partition: int, offset: int, max_records: int) -> list[Record]:
        """Up to `max_records` records at or after `offset`; empty where none is at hand yet.

        Never waits.

        Raises OffsetError when `offset` is below the first or above the end offset.
        """
        ...

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The offsets of the first record still held and of the next one to be written."""
        ...

    def drained(self, topic: str, partition: int, offset: int) -> bool:
        """Whether a reader at `offset` has read all that the partition held at this call. Where
        that is so `read` finds nothing; the other way round it need not be."""
        ...

    def first_since(self, topic: str, partition: int, at_ms: int) -> int:
        """The offset of the first record appended at this time or later; the end without any."""
        ...

    def lag(self, offsets: Mapping[str, Mapping[int, int]]) -> dict[str, Lag]:
        """How a reader at these offsets stands, by topic. For display only: it never waits, may
        be a few seconds old, and lacks topics of which nothing is known at present."""
        ...

    def progress(self, offsets: Mapping[str, Mapping[int, int]]) -> None:
        """Tell whoever watches the log where the newest durable version ends. For display only:
        nothing is ever read from there."""
        ...

    def sync(self) -> None:
        """Return when everything appended through this stream so far survives power loss."""
        ...

    def close(self) -> None:
        """Sync and let go of every resource."""
        ...
