"""What a broker sends for one partition: record batches (format 2), decoded a batch at a time.

kafka-python decodes record by record in Python, 70,000 a second; here the lengths are found by
compiled code, and Python only cuts the payloads out. Batches of aborted transactions, and the
markers that end transactions, are left out, as `read_committed` demands.

Suffix: R records of one batch.
"""

import struct
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from crc32c import crc32c
from kafka import codec
from numba import njit

from service.errors import StreamError
from service.streams.protocol import Record

_HEADER = struct.Struct(">qiibIhiqqqhii")
_BEFORE_LENGTH = 12
_CHECKED_FROM = 21
_FORMAT = 2
_CODEC, _LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20
_ABORT = 0

_Ints = npt.NDArray[np.int64]
_record = partial(tuple.__new__, Record)  # a third faster than Record(...), which runs Python code


class Aborted(Protocol):
    """A transaction whose records are not to be read."""

    producer_id: int
    first_offset: int


class Fetched(NamedTuple):
    """The records found, where to go on, and the epoch of the leader that took the last batch."""

    records: list[Record]
    next_offset: int
    epoch: int


def decoded(data: bytes, offset: int, aborted: Iterable[Aborted] = ()) -> Fetched:
    """The committed records at or after `offset` in the batches of `data`, whose last may be cut.

    A record without a value (a tombstone) has an empty payload, and its key. Raises StreamError for
    damage.
    """
    transactions = _Transactions(aborted)
    view, at, epoch = memoryview(data), 0, -1
    records: list[Record] = []
    next_offset = offset
    while (batch := _batch(view, at)) is not None:
        at += batch.size_bytes
        epoch, next_offset = batch.epoch, max(next_offset, batch.last_offset + 1)
        if transactions.wanted(batch):
            found = batch.records()
            records += found if batch.offset >= offset else [r for r in found if r.offset >= offset]
    if not at and len(data):
        raise StreamError(f"the batch at offset {offset} is longer than what the broker sent")
    return Fetched(records, next_offset, epoch)


class _Batch(NamedTuple):
    """The header of a batch, its fields under the names of Kafka's documentation, and its body."""

    offset: int
    length: int
    epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    first_ms: int
    largest_ms: int
    producer_id: int
    producer_epoch: int
    sequence: int
    number: int
    body: memoryview

    @property
    def size_bytes(self) -> int:
        return _BEFORE_LENGTH + self.length

    @property
    def last_offset(self) -> int:
        return self.offset + self.last_offset_delta

    @property
    def ends_transaction(self) -> bool:
        return bool(self.attributes & _CONTROL)

    @property
    def transactional(self) -> bool:
        return bool(self.attributes & _TRANSACTIONAL)

    @property
    def aborts(self) -> bool:
        """Whether this marker takes its transaction back: the key holds a version and a type."""
        columns = _columns(self)
        start = int(columns.key_starts_R[0])
        (kind,) = struct.unpack_from(">h", columns.data, start + 2)
        return bool(kind == _ABORT)

    def records(self) -> list[Record]:
        data, key_starts_R, key_ends_R, starts_R, ends_R, offsets_R, times_R = _columns(self)
        payloads = _cut(data, starts_R, ends_R)
        keys: Iterable[bytes] = repeat(b"", self.number)
        if (starts_R == ends_R).any():  # what is gone is known by its key
            keys = _cut(data, key_starts_R, key_ends_R)
        offsets = (offsets_R + self.offset).tolist()
        if self.attributes & _LOG_APPEND_TIME:
            times = [self.largest_ms] * self.number
        else:
            times = (times_R + self.first_ms).tolist()
        return list(map(_record, zip(offsets, times, payloads, keys, strict=True)))


class _Transactions:
    """Which batches count: those that no aborted transaction wrote."""

    def __init__(self, aborted: Iterable[Aborted]) -> None:
        self._begin = deque(sorted(aborted, key=lambda one: one.first_offset))
        self._open: set[int] = set()

    def wanted(self, batch: _Batch) -> bool:
        while self._begin and self._begin[0].first_offset <= batch.last_offset:
            self._open.add(self._begin.popleft().producer_id)
        if batch.ends_transaction:
            if batch.aborts:
                self._open.discard(batch.producer_id)
            return False
        return not (batch.transactional and batch.producer_id in self._open)


def _batch(view: memoryview, at: int) -> _Batch | None:
    """The whole batch at `at`, its CRC checked; None at the end, or where a batch was cut."""
    if len(view) - at < _HEADER.size:
        return None
    fields = _HEADER.unpack_from(view, at)
    end = at + _BEFORE_LENGTH + fields[1]
    if end > len(view):
        return None
    batch = _Batch._make((*fields, view[at + _HEADER.size : end]))
    if batch.magic != _FORMAT:
        raise StreamError(
            f"the batch at offset {batch.offset} has format {batch.magic}, not {_FORMAT}: it was "
            "written for Kafka 0.10 or older, which is not supported"
        )
    if crc32c(view[at + _CHECKED_FROM : end]) != batch.crc:
        raise StreamError(f"the batch at offset {batch.offset} is damaged: its CRC is another one")
    return batch


class _Columns(NamedTuple):
    data: bytes
    key_starts_R: _Ints
    key_ends_R: _Ints
    starts_R: _Ints
    ends_R: _Ints
    offsets_R: _Ints
    times_R: _Ints


def _columns(batch: _Batch) -> _Columns:
    data = _unpacked(batch)
    columns_R = np.empty((6, batch.number), np.int64)
    if not _parse(np.frombuffer(data, np.uint8), *columns_R):
        raise StreamError(f"the batch at offset {batch.offset} is damaged: its records do not fit")
    return _Columns(data, *columns_R)


def _cut(data: bytes, starts_R: _Ints, ends_R: _Ints) -> list[bytes]:
    cuts = zip(starts_R.tolist(), ends_R.tolist(), strict=True)
    return [data[start:end] for start, end in cuts]


def _unpacked(batch: _Batch) -> bytes:
    name, unpack = _CODECS.get(batch.attributes & _CODEC, ("unknown", None))
    if name == "none":
        return bytes(batch.body)
    if unpack is None:
        raise StreamError(
            f"the batch at offset {batch.offset} is compressed by a codec that cannot be read here "
            f"({name}); install it (pip install python-{name}), or let its producer use lz4 or zstd"
        )
    try:
        return bytes(unpack(bytes(batch.body)))
    except Exception as error:  # each codec raises errors of its own
        raise StreamError(f"the batch at offset {batch.offset} is damaged: {error}") from error


_CODECS: dict[int, tuple[str, Callable[[bytes], bytes] | None]] = {
    0: ("none", None),
    1: ("gzip", codec.gzip_decode),
    2: ("snappy", codec.snappy_decode if codec.has_snappy() else None),
    3: ("lz4", codec.lz4_decode if codec.has_lz4() else None),
    4: ("zstd", codec.zstd_decode if codec.has_zstd() else None),
}


@njit(cache=True, nogil=True)
def _parse(data, key_starts_R, key_ends_R, starts_R, ends_R, offsets_R, times_R):
    """Where keys and values lie, and what is added to the batch's offset and time; False if the
    records do not fill `data` exactly."""
    at = 0
    for r in range(len(starts_R)):
        length, at = _varint(data, at)
        end = at + length
        if length < 1 or end > len(data):
            return False
        times_R[r], at = _varint(data, at + 1)
        offsets_R[r], at = _varint(data, at)
        key_bytes, at = _varint(data, at)
        key_starts_R[r] = at
        key_ends_R[r] = at + max(key_bytes, 0)
        value_bytes, at = _varint(data, at + max(key_bytes, 0))
        starts_R[r] = at
        ends_R[r] = at + max(value_bytes, 0)
        if ends_R[r] > end:
            return False
        at = end
    return at == len(data)


@njit(cache=True, nogil=True)
def _varint(data, at):
    """The zigzag number at `at`, and what follows it; beyond the end, 0 and a place beyond it."""
    value, shift = np.uint64(0), np.uint64(0)
    while 0 <= at < len(data) and shift < 64:
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(127)) << shift
        if byte < 128:
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), at
        shift += np.uint64(7)
    return np.int64(0), len(data) + 1
