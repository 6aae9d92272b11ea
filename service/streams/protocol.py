"""What every stream offers: ordered, durable, partitioned logs of opaque payloads."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class Record(NamedTuple):
    """One payload with its place. `append_ms` is milliseconds since the epoch."""

    offset: int
    append_ms: int
    payload: bytes


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

    def read(self, topic: str, partition: int, offset: int, max_records: int) -> list[Record]:
        """Up to `max_records` records at or after `offset`; empty where none is at hand yet.

        Never waits.

        Raises OffsetError when `offset` is below the first or above the end offset.
        """
        ...

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The offsets of the first record still held and of the next one to be written."""
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
