"""One frame of the log: the records of one append, or a share of them, under one CRC-32.

Little-endian, 32 bytes of header and then the body:

    0  2  magic "Fr"             8  4  records in the frame     28  4  CRC-32 of the body
    2  1  format, 1             12  8  offset of the first             followed by bytes 0-27
    3  1  1: own times, else 0  20  8  append time of the first, ms
    4  4  body bytes

    body: length of each payload (4 each), append time of each (8 each, if own times), payloads

The CRC takes the body first, so that the costly part is done before a writer holds the lock.
"""

import struct
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise, repeat
from typing import NamedTuple

from service.errors import StreamError
from service.streams.protocol import Record

FRAME_BYTES = 64 * 1024
"""A body is closed before it grows past this; only a single larger payload exceeds it."""
MAX_PAYLOAD_BYTES = 64 * 2**20
HEADER_BYTES = 32

_HEADER = struct.Struct("<2sBBIIqqI")
_UNCHECKED = struct.Struct("<2sBBIIqq")
_CRC = struct.Struct("<I")
_MAGIC, _FORMAT = b"Fr", 1
_LENGTH_AND_TIME_BYTES = 12
_record = partial(tuple.__new__, Record)  # a third faster than Record(...), which runs Python code


class Body(NamedTuple):
    """A frame that does not know its offset yet."""

    data: bytes
    number: int
    own_times: bool
    append_ms: int
    crc: int

    def header(self, offset: int) -> bytes:
        """The 32 bytes before the body when its first record gets `offset`."""
        unchecked = _UNCHECKED.pack(
            _MAGIC, _FORMAT, self.own_times, len(self.data), self.number, offset, self.append_ms
        )
        return unchecked + _CRC.pack(zlib.crc32(unchecked, self.crc))


class Frame(NamedTuple):
    """A frame found at `at` in `chunk`; its CRC is checked only by `intact`."""

    chunk: bytes
    at: int
    own_times: bool
    body_bytes: int
    number: int
    offset: int
    append_ms: int
    crc: int

    @property
    def size_bytes(self) -> int:
        """Header and body together."""
        return HEADER_BYTES + self.body_bytes

    @property
    def intact(self) -> bool:
        """Whether header and body are as they were written."""
        view = memoryview(self.chunk)[self.at : self.at + self.size_bytes]
        return zlib.crc32(view[: _UNCHECKED.size], zlib.crc32(view[HEADER_BYTES:])) == self.crc

    def records(self, skip: int, limit: int) -> list[Record]:
        """At most `limit` records after the first `skip`. The frame must be intact."""
        lengths_at = self.at + HEADER_BYTES
        lengths = struct.unpack_from(f"<{self.number}I", self.chunk, lengths_at)
        payloads_at = lengths_at + 4 * self.number
        times: Sequence[int] | repeat[int] = repeat(self.append_ms)
        stop = min(self.number, skip + limit)
        if self.own_times:
            times = struct.unpack_from(f"<{self.number}q", self.chunk, payloads_at)[skip:stop]
            payloads_at += 8 * self.number
        edges = list(accumulate(lengths, initial=payloads_at))[skip : stop + 1]
        payloads = [self.chunk[begin:end] for begin, end in pairwise(edges)]
        offsets = range(self.offset + skip, self.offset + stop)
        return list(map(_record, zip(offsets, times, payloads, repeat(b""), strict=False)))


def find(chunk: bytes, at: int) -> Frame | None:
    """The frame whose header stands at `at`; None where there is none. The body is not read."""
    if len(chunk) - at < HEADER_BYTES:
        return None
    magic, version, own_times, *numbers = _HEADER.unpack_from(chunk, at)
    if magic != _MAGIC or version != _FORMAT:
        return None
    return Frame(chunk, at, own_times == 1, *numbers)


def bodies(payloads: Sequence[bytes], append_ms: int | Sequence[int]) -> list[Body]:
    """Cut the payloads of one append into frames of bounded size.

    `append_ms` is one time for all or one per payload. Raises StreamError for a payload beyond
    MAX_PAYLOAD_BYTES.
    """
    lengths = list(map(len, payloads))
    if max(lengths, default=0) > MAX_PAYLOAD_BYTES:
        raise StreamError(
            f"payload of {max(lengths)} bytes exceeds {MAX_PAYLOAD_BYTES}; store it elsewhere and "
            "append a reference to it"
        )
    ends = list(accumulate(length + _LENGTH_AND_TIME_BYTES for length in lengths))
    made: list[Body] = []
    start, filled = 0, 0
    while start < len(lengths):
        stop = max(start + 1, bisect_right(ends, filled + FRAME_BYTES))
        times = append_ms if isinstance(append_ms, int) else append_ms[start:stop]
        made.append(_body(payloads[start:stop], lengths[start:stop], times))
        start, filled = stop, ends[stop - 1]
    return made


def _body(payloads: Sequence[bytes], lengths: list[int], append_ms: int | Sequence[int]) -> Body:
    count = len(lengths)
    columns = struct.pack(f"<{count}I", *lengths)
    first_ms = append_ms if isinstance(append_ms, int) else append_ms[0]
    own_times = not isinstance(append_ms, int) and any(ms != first_ms for ms in append_ms)
    if own_times and not isinstance(append_ms, int):
        columns += struct.pack(f"<{count}q", *append_ms)
    data = b"".join((columns, *payloads))
    return Body(data, count, own_times, first_ms, zlib.crc32(data))
