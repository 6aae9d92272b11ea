"""Record batches as kafka-python writes them, decoded; and what damage is told."""

import random
import struct
from dataclasses import dataclass

import pytest
from crc32c import crc32c
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecordsBuilder

from service.errors import StreamError
from service.streams import Record
from service.streams.kafka.records import decoded

NONE, GZIP, LZ4, ZSTD = 0, 1, 3, 4
START_MS = 1_700_000_000_000


def batch(
    values: list[bytes | None], compression: int = NONE, first: int = 0, **transaction: int
) -> bytes:
    """A batch of these values, keyed by their numbers, each a millisecond after the last."""
    builder = DefaultRecordBatchBuilder(
        2, compression, bool(transaction), transaction.get("producer_id", -1), 0, 0, 10**7
    )
    for number, value in enumerate(values):
        builder.append(number, START_MS + number, b"k%d" % number, value, [])
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, first)  # the offset is no part of what the CRC covers
    return bytes(data)


def marker(commits: bool, offset: int, producer_id: int) -> bytes:
    """The control batch that ends a transaction."""
    builder = DefaultRecordBatchBuilder(2, NONE, True, producer_id, 0, 0, 10**6)
    builder.append(0, START_MS, struct.pack(">hh", 0, int(commits)), b"\0" * 6, [])
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, offset)
    (attributes,) = struct.unpack_from(">h", data, 21)
    struct.pack_into(">h", data, 21, attributes | 0x20)
    struct.pack_into(">I", data, 17, crc32c(bytes(data[21:])))
    return bytes(data)


@dataclass(frozen=True)
class Aborted:
    producer_id: int
    first_offset: int


@pytest.mark.parametrize("compression", [NONE, GZIP, LZ4, ZSTD])
@pytest.mark.parametrize("number", [1, 2, 63, 1000])
def test_what_the_client_writes_is_read(compression: int, number: int) -> None:
    draw = random.Random(number)
    builder = MemoryRecordsBuilder(2, compression, 10**7)
    expected: list[tuple[int, int, bytes]] = []
    for offset in range(number):
        value = draw.choice([None, b"", draw.randbytes(draw.randrange(300))])
        key = draw.choice([None, b"", b"k" * draw.randrange(1, 200)])
        at_ms = START_MS + draw.randrange(-(10**9), 10**9)
        headers = [("name", b"value"), ("none", None)] if draw.random() < 0.2 else []
        builder.append(at_ms, key, value, headers)
        expected.append((offset, at_ms, value or b""))
    builder.close()
    found = decoded(bytes(builder.buffer()), 0)
    assert [record[:3] for record in found.records] == expected
    assert (found.next_offset, found.epoch) == (number, 0)


def test_records_before_the_offset_that_was_asked_for_are_left_out() -> None:
    data = batch([b"a", b"b"], first=10) + batch([b"c", b"d"], first=12)
    assert [record.offset for record in decoded(data, 11).records] == [11, 12, 13]
    assert [record.payload for record in decoded(data, 13).records] == [b"d"]


def test_a_tombstone_keeps_its_key() -> None:
    assert decoded(batch([None]), 0).records == [Record(0, START_MS, b"", b"k0")]


def test_a_batch_that_was_cut_is_left_for_the_next_fetch() -> None:
    whole, cut = batch([b"a"]), batch([b"b"], first=1)
    for size in (0, 5, 61, len(cut) - 1):
        found = decoded(whole + cut[:size], 0)
        assert [record.payload for record in found.records] == [b"a"]
        assert found.next_offset == 1
    with pytest.raises(StreamError, match="longer than what the broker sent"):
        decoded(whole[:-1], 0)
    assert decoded(b"", 7) == ([], 7, -1)


def test_aborted_transactions_and_markers_are_left_out() -> None:
    data = b"".join([
        batch([b"first"], first=0),
        batch([b"aborted", b"aborted"], first=1, producer_id=7),
        batch([b"of another"], first=3, producer_id=8),
        marker(commits=False, offset=4, producer_id=7),
        batch([b"of a later one"], first=5, producer_id=7),
        marker(commits=True, offset=6, producer_id=7),
        marker(commits=True, offset=7, producer_id=8),
    ])  # fmt: skip
    found = decoded(data, 0, [Aborted(7, 1)])
    assert [record.payload for record in found.records] == [
        b"first", b"of another", b"of a later one",
    ]  # fmt: skip
    assert found.next_offset == 8


def test_every_changed_byte_under_the_crc_is_noticed() -> None:
    data = batch([b"one", b"two"], LZ4)
    for place in range(21, len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(StreamError, match=r"offset 0 is damaged: its CRC|codec"):
            decoded(bytes(damaged), 0)


def test_records_that_do_not_fill_their_batch_are_damage() -> None:
    """A broken producer may put a right CRC on anything; nothing is read beyond the batch."""
    draw, data = random.Random(0), batch([b"x", b"y", b""])
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        damaged[draw.randrange(61, len(data))] = draw.randrange(256)
        struct.pack_into(">I", damaged, 17, crc32c(bytes(damaged[21:])))
        try:
            decoded(bytes(damaged), 0)
        except StreamError as error:
            refused += "its records do not fit" in str(error)
    assert refused > 50


def test_formats_and_codecs_that_cannot_be_read_are_named() -> None:
    old = bytearray(batch([b"a"]))
    old[16] = 1
    with pytest.raises(StreamError, match="format 1, not 2"):
        decoded(bytes(old), 0)
    snappy = bytearray(batch([b"a"]))
    (attributes,) = struct.unpack_from(">h", snappy, 21)
    struct.pack_into(">h", snappy, 21, attributes | 7)
    struct.pack_into(">I", snappy, 17, crc32c(bytes(snappy[21:])))
    with pytest.raises(StreamError, match="codec that cannot be read here"):
        decoded(bytes(snappy), 0)
    broken = bytearray(batch([b"a" * 100], LZ4))
    broken[70] ^= 0xFF
    struct.pack_into(">I", broken, 17, crc32c(bytes(broken[21:])))
    with pytest.raises(StreamError, match="offset 0 is damaged"):
        decoded(bytes(broken), 0)
