"""What a crash or a failing disk leaves behind, and what the stream makes of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.errors import StreamError
from service.streams import LocalStream, Record, frames, segment
from service.streams.head import Head, HeadFile, Place

OpenStream = Callable[..., LocalStream]
ReadAll = Callable[..., list[Record]]
PowerLoss = Callable[..., Head]


def log_of(partition: Path, base: int = 0) -> Path:
    return partition / f"{base:020}.log"


def payloads(records: list[Record]) -> list[bytes]:
    return [record.payload for record in records]


def fill(stream: LocalStream, numbers: range) -> None:
    for number in numbers:
        stream.append("actions", 0, [b"%d" % number])


def frame_of(number: int) -> bytes:
    body = frames.bodies([b"%d" % number], 7)[0]
    return body.header(number) + body.data


@pytest.mark.parametrize(
    "left_behind", [b"x", b"garbage" * 5000, frame_of(3) + frame_of(4), frame_of(3)[:-1]]
)
def test_what_a_killed_writer_left_is_never_read_and_is_overwritten(
    open_stream: OpenStream, partition: Path, read_all: ReadAll, left_behind: bytes
) -> None:
    stream = open_stream()
    fill(stream, range(3))
    with log_of(partition).open("ab") as log:
        log.write(left_behind)
    for reader in (stream, open_stream()):
        assert payloads(read_all(reader)) == [b"0", b"1", b"2"]
    assert open_stream().append("actions", 0, [b"next"]) == 3
    assert payloads(read_all(stream)) == [b"0", b"1", b"2", b"next"]
    assert log_of(partition).stat().st_size == HeadFile(partition / "head").read().end.position


def test_a_roll_that_was_killed_is_repeated(
    open_stream: OpenStream, partition: Path, read_all: ReadAll
) -> None:
    stream = open_stream(segment_bytes=1)
    fill(stream, range(2))
    log_of(partition, 2).write_bytes(frame_of(2))
    assert stream.bounds("actions", 0) == (0, 2)
    assert payloads(read_all(open_stream())) == [b"0", b"1"]
    fill(stream, range(5, 7))
    assert payloads(read_all(open_stream())) == [b"0", b"1", b"5", b"6"]


def test_a_half_written_head_slot_is_ignored(open_stream: OpenStream, partition: Path) -> None:
    stream = open_stream(sync_ms=60_000)
    fill(stream, range(3))
    head = HeadFile(partition / "head").read()
    with (partition / "head").open("r+b") as file:
        file.seek(512 * ((head.generation + 1) % 2))
        file.write(b"torn in the middle of")
    assert stream.bounds("actions", 0) == (0, 3)
    assert stream.append("actions", 0, [b"next"]) == 3


def test_a_head_that_holds_nothing_is_an_error(tmp_path: Path) -> None:
    file = HeadFile(tmp_path / "head")
    with pytest.raises(StreamError, match="head is damaged"):
        file.read()
    file.close()


def test_after_a_boot_a_half_written_frame_is_dropped(
    open_stream: OpenStream,
    partition: Path,
    read_all: ReadAll,
    power_loss: PowerLoss,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream = open_stream()
    fill(stream, range(3))
    stream.sync()
    synced = HeadFile(partition / "head").read().synced
    fill(stream, range(3, 6))
    stream.close()
    power_loss(synced=synced)
    with log_of(partition).open("r+b") as log:
        log.truncate(log_of(partition).stat().st_size - 1)
    again = open_stream()
    assert payloads(read_all(again)) == [b"0", b"1", b"2", b"3", b"4"]
    assert "lost records 5 to 5" in caplog.text
    assert again.append("actions", 0, [b"next"]) == 5
    assert payloads(read_all(open_stream()))[4:] == [b"4", b"next"]


def test_after_a_boot_zeros_where_frames_were_are_dropped(
    open_stream: OpenStream, partition: Path, read_all: ReadAll, power_loss: PowerLoss
) -> None:
    stream = open_stream()
    fill(stream, range(10))
    stream.close()
    power_loss(synced=Place(0, 0, 0))
    size = log_of(partition).stat().st_size
    with log_of(partition).open("r+b") as log:
        log.truncate(size // 2 + 1)
        log.truncate(size)
    assert payloads(read_all(open_stream())) == [b"0", b"1", b"2", b"3", b"4"]


def test_after_a_boot_whole_frames_beyond_an_old_head_are_kept(
    open_stream: OpenStream, read_all: ReadAll, power_loss: PowerLoss
) -> None:
    stream = open_stream(segment_bytes=100)
    fill(stream, range(20))
    stream.close()
    power_loss(end=Place(0, 0, 0), synced=Place(0, 0, 0))
    again = open_stream()
    assert payloads(read_all(again)) == [b"%d" % i for i in range(20)]
    assert again.append("actions", 0, [b"next"]) == 20


def test_after_a_boot_segments_behind_a_lost_one_are_dropped(
    open_stream: OpenStream, partition: Path, read_all: ReadAll, power_loss: PowerLoss
) -> None:
    stream = open_stream(segment_bytes=1)
    fill(stream, range(6))
    stream.close()
    power_loss(synced=Place(2, 0, 2))
    log_of(partition, 3).write_bytes(b"")
    again = open_stream()
    assert payloads(read_all(again)) == [b"0", b"1", b"2"]
    fill(again, range(3, 5))
    assert payloads(read_all(open_stream())) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_boot_does_not_excuse_the_loss_of_synced_records(
    open_stream: OpenStream, partition: Path, power_loss: PowerLoss
) -> None:
    stream = open_stream()
    fill(stream, range(3))
    stream.close()
    power_loss()
    log_of(partition).write_bytes(b"")
    with pytest.raises(StreamError, match="lost synced frames"):
        open_stream().bounds("actions", 0)


def test_a_lost_head_is_rebuilt_from_the_frames(
    open_stream: OpenStream, partition: Path, read_all: ReadAll
) -> None:
    stream = open_stream(segment_bytes=100)
    fill(stream, range(20))
    stream.close()
    (partition / "head").unlink()
    with sorted(partition.glob("*.log"))[-1].open("ab") as log:
        log.write(b"torn")
    assert payloads(read_all(open_stream())) == [b"%d" % i for i in range(20)]


def test_a_lost_head_does_not_let_damage_cut_the_log(
    open_stream: OpenStream, partition: Path
) -> None:
    stream = open_stream(segment_bytes=1)
    fill(stream, range(3))
    stream.close()
    (partition / "head").unlink()
    log_of(partition, 1).write_bytes(b"damaged")
    with pytest.raises(StreamError, match="damaged before offset 2"):
        open_stream().bounds("actions", 0)


@pytest.mark.parametrize("byte", [0, 2, 5, 9, 14, 22, 30, 33, 40])
def test_a_damaged_frame_is_an_error_naming_file_and_position(
    open_stream: OpenStream, partition: Path, byte: int
) -> None:
    stream = open_stream()
    fill(stream, range(2))
    position = HeadFile(partition / "head").read().end.position
    stream.append("actions", 0, [b"the damaged one"])
    fill(stream, range(3, 5))
    content = bytearray(log_of(partition).read_bytes())
    content[position + byte] ^= 0x10
    log_of(partition).write_bytes(content)
    with pytest.raises(StreamError, match=rf"{log_of(partition)} is damaged at byte {position}"):
        stream.read("actions", 0, 0, 10)
    assert payloads(stream.read("actions", 0, 0, 2)) == [b"0", b"1"]


@pytest.mark.parametrize("kept", [0, 10, 40, 70])
def test_a_file_that_lost_its_tail_is_an_error(
    open_stream: OpenStream, partition: Path, kept: int
) -> None:
    stream = open_stream(segment_bytes=100)
    fill(stream, range(9))
    for base in (0, 6):  # a segment that is followed by others, and the last one
        with log_of(partition, base).open("r+b") as log:
            log.truncate(kept)
        with pytest.raises(StreamError, match=f"{base:020}.log is damaged at byte"):
            stream.read("actions", 0, base + 2, 10)


def test_a_missing_segment_is_an_error(open_stream: OpenStream, partition: Path) -> None:
    stream = open_stream(segment_bytes=1)
    fill(stream, range(3))
    stream.sync()
    log_of(partition, 1).unlink()
    with pytest.raises(StreamError, match=r"1\.log is missing"):
        stream.read("actions", 0, 0, 10)
    for path in partition.glob("*.log"):
        path.unlink()
    with pytest.raises(StreamError, match="lost its segments"):
        open_stream().bounds("actions", 0)


@pytest.mark.parametrize("content", [None, b"", b"\0" * 400, b"\xff" * 401, b"short"])
def test_a_lost_or_wrong_index_only_costs_time(
    open_stream: OpenStream, partition: Path, content: bytes | None
) -> None:
    stream = open_stream()
    for start in range(0, 3000, 30):
        stream.append("actions", 0, [b"%0500d" % i for i in range(start, start + 30)])
    assert log_of(partition).stat().st_size > 20 * segment.INDEX_STEP_BYTES
    stream.close()
    index = partition / f"{0:020}.index"
    index.unlink() if content is None else index.write_bytes(content)
    again = open_stream()
    for offset in (2999, 0, 1500, 29, 30):
        assert int(again.read("actions", 0, offset, 1)[0].payload) == offset
