"""What was read ahead of a reader, one buffer per partition."""

from collections import deque

from service.errors import OffsetError, StreamError
from service.streams.protocol import Record

RECORD_BYTES = 200
"""What a record costs besides its payload, as Python objects."""


class Buffer:
    """Records of one partition in the order of their offsets; whoever uses it holds a lock."""

    def __init__(self, offset: int) -> None:
        self.bytes = 0
        self.seeks = 0
        """How often another place was asked for: what was fetched for an earlier one is stale."""
        self.bounds: tuple[int, int] | None = None
        """First and next offset of the partition, as a broker last told."""
        self._begin(offset)

    def _begin(self, offset: int) -> None:
        self.next_offset = self.fetch_offset = offset
        self.epoch = -1
        self.failure: StreamError | None = None
        self._chunks: deque[tuple[list[Record], int]] = deque()
        self._used = 0
        self.bytes = 0

    def seek(self, offset: int) -> None:
        """Begin again at another offset."""
        self.seeks += 1
        self._begin(offset)

    def failure_raised(self) -> StreamError:
        """Why nothing can be read here. Unless the offset itself is to blame, who asks again gets
        another attempt."""
        assert self.failure is not None
        failure = self.failure
        if not isinstance(failure, OffsetError):
            self.failure = None
        return failure

    def put(self, records: list[Record], next_offset: int, epoch: int) -> None:
        """Add what was fetched at `fetch_offset`; the next fetch is from `next_offset` on."""
        if records:
            size = sum(len(record.payload) for record in records) + RECORD_BYTES * len(records)
            self._chunks.append((records, size))
            self.bytes += size
        self.fetch_offset = next_offset
        self.epoch = epoch if epoch >= 0 else self.epoch

    def take(self, limit: int) -> list[Record]:
        """At most `limit` records from the front, maybe fewer than there are."""
        if not self._chunks:
            return []
        records, size = self._chunks[0]
        taken = records[self._used : self._used + limit]
        self._used += len(taken)
        if self._used == len(records):
            self._chunks.popleft()
            self.bytes -= size
            self._used = 0
        if taken:
            self.next_offset = taken[-1].offset + 1
        return taken

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be taken."""
        return not self._chunks
