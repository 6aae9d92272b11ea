import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from service.actions import partition_of_key
from service.errors import OffsetError, StreamError
from service.streams import LocalStream, LocalStreamSettings, Record, Stream
from service.streams.head import HeadFile

OpenStream = Callable[..., LocalStream]
ReadAll = Callable[..., list[Record]]


def test_what_is_appended_is_read(open_stream: OpenStream) -> None:
    stream: Stream = open_stream()
    assert stream.append("actions", 0, [b"a", b"b\nc\0\xff"], 1234) == 0
    assert stream.append("actions", 0, [b"", b"d"], [5, 6]) == 2
    assert stream.read("actions", 0, 0, 10) == [
        Record(0, 1234, b"a"),
        Record(1, 1234, b"b\nc\0\xff"),
        Record(2, 5, b""),
        Record(3, 6, b"d"),
    ]
    assert stream.bounds("actions", 0) == (0, 4)


def test_the_default_append_time_is_the_wall_clock(open_stream: OpenStream) -> None:
    stream = open_stream()
    before = time.time_ns() // 1_000_000
    stream.append("actions", 0, [b"now"])
    assert before <= stream.read("actions", 0, 0, 1)[0].append_ms <= time.time_ns() // 1_000_000


def test_an_empty_append_writes_nothing(open_stream: OpenStream) -> None:
    stream = open_stream()
    stream.append("actions", 0, [b"a"])
    assert stream.append("actions", 0, []) == 1
    assert stream.bounds("actions", 0) == (0, 1)


def test_an_empty_topic_reads_empty(open_stream: OpenStream) -> None:
    stream = open_stream()
    assert stream.bounds("actions", 0) == (0, 0)
    assert stream.read("actions", 0, 0, 10) == []


def test_huge_payloads_and_their_neighbours_come_back(open_stream: OpenStream) -> None:
    stream = open_stream()
    payloads = [b"before", bytes(range(256)) * 20_000, b"after", b"x" * 300_000, b"end"]
    stream.append("actions", 0, payloads)
    stream.append("actions", 0, [b"next"])
    for offset, payload in enumerate([*payloads, b"next"]):
        assert stream.read("actions", 0, offset, 1)[0].payload == payload


def test_any_offset_can_be_read_in_any_order(open_stream: OpenStream) -> None:
    stream = open_stream(segment_bytes=400_000)
    dice = random.Random(1)
    expected: list[bytes] = []
    while len(expected) < 6000:
        batch = [dice.randbytes(dice.randrange(300)) for _ in range(dice.choice([1, 1, 1, 300]))]
        assert stream.append("actions", 0, batch) == len(expected)
        expected += batch
    for _ in range(300):
        offset, count = dice.randrange(len(expected) + 1), dice.randrange(700)
        found = stream.read("actions", 0, offset, count)
        assert [record.payload for record in found] == expected[offset : offset + count]
        assert [record.offset for record in found] == list(range(offset, offset + len(found)))


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_many_readers_take_turns(open_stream: OpenStream, step: int) -> None:
    stream = open_stream(segment_bytes=2000)
    stream.append("actions", 0, [b"%d" % i for i in range(200)])
    for i in range(200, 400):
        stream.append("actions", 0, [b"%d" % i])
    offsets = [random.Random(step).randrange(400) for _ in range(100)]
    for _ in range(5):
        for reader, offset in enumerate(offsets):
            found = stream.read("actions", 0, offset, step)
            assert [int(record.payload) for record in found] == [
                *range(offset, min(offset + step, 400))
            ]
            offsets[reader] += len(found)


def test_offsets_outside_the_log_are_errors_that_name_the_bounds(open_stream: OpenStream) -> None:
    stream = open_stream()
    stream.append("actions", 0, [b"a", b"b"])
    for offset in (-1, 3, 2**40):
        with pytest.raises(OffsetError, match=rf"offset {offset} .* holds 0 up to 2"):
            stream.read("actions", 0, offset, 1)
    assert stream.read("actions", 0, 2, 1) == []
    assert stream.read("actions", 0, 0, 0) == []


def test_old_segments_can_be_deleted_while_nobody_looks(
    open_stream: OpenStream, partition: Path
) -> None:
    stream = open_stream(segment_bytes=1)
    for i in range(5):
        stream.append("actions", 0, [b"%d" % i])
    stream.close()
    for number in (0, 1):
        (partition / f"{number:020}.log").unlink()
        (partition / f"{number:020}.index").unlink()
    again = open_stream(segment_bytes=1)
    assert again.bounds("actions", 0) == (2, 5)
    assert [record.payload for record in again.read("actions", 0, 2, 9)] == [b"2", b"3", b"4"]
    with pytest.raises(OffsetError, match="holds 2 up to 5"):
        again.read("actions", 0, 1, 1)


def test_a_log_is_continued_after_reopening(open_stream: OpenStream, read_all: ReadAll) -> None:
    for i in range(4):
        stream = open_stream(segment_bytes=100)
        assert stream.append("actions", 0, [b"%d" % i] * 3) == 3 * i
        stream.close()
    assert [record.payload for record in read_all(open_stream())] == [
        b"%d" % i for i in range(4) for _ in range(3)
    ]


def test_segments_roll_and_keep_the_size_the_topic_was_made_with(
    open_stream: OpenStream, partition: Path, read_all: ReadAll
) -> None:
    first = open_stream(segment_bytes=1000)
    for i in range(50):
        first.append("actions", 0, [b"x" * 200, b"%d" % i])
    second = open_stream(segment_bytes=2**30)
    for i in range(50, 100):
        second.append("actions", 0, [b"x" * 200, b"%d" % i])
    sizes = [path.stat().st_size for path in sorted(partition.glob("*.log"))]
    assert len(sizes) == 20
    assert all(1000 <= size < 1300 for size in sizes[:-1])
    for stream in (first, second):
        assert [record.payload for record in read_all(stream)][1::2] == [
            b"%d" % i for i in range(100)
        ]


def test_partitions_are_separate(open_stream: OpenStream) -> None:
    stream = open_stream(partitions=3)
    assert stream.partitions("actions") == 3
    for partition in range(3):
        assert stream.append("actions", partition, [b"%d" % partition] * (partition + 1)) == 0
    assert [stream.bounds("actions", partition)[1] for partition in range(3)] == [1, 2, 3]
    for missing in (-1, 3):
        with pytest.raises(StreamError, match=f"partitions 0 to 2, not {missing}"):
            stream.append("actions", missing, [b"x"])


def test_another_partition_count_is_an_error_that_says_so(open_stream: OpenStream) -> None:
    open_stream(partitions=2).append("actions", 0, [b"x"])
    with pytest.raises(StreamError, match=r"made with 2 partitions, the setting says 4.*= 2"):
        open_stream(partitions=4).bounds("actions", 0)


def test_a_topic_keeps_its_id_until_it_is_made_again(
    open_stream: OpenStream, partition: Path
) -> None:
    first, second = open_stream(), open_stream()
    assert first.topic_id("actions") == second.topic_id("actions")
    assert first.topic_id("actions") != first.topic_id("impressions")
    identity = first.topic_id("actions")
    first.close()
    (partition.parent / "topic.json").unlink()
    assert open_stream().topic_id("actions") != identity


def test_topics_made_at_once_have_one_id(open_stream: OpenStream) -> None:
    streams = [open_stream() for _ in range(8)]
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda s=stream: found.append(s.topic_id("actions")))
        for stream in streams
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "x" * 201, "no\nline"])
def test_a_topic_name_cannot_leave_the_directory(open_stream: OpenStream, name: str) -> None:
    with pytest.raises(StreamError, match="topic name"):
        open_stream().append(name, 0, [b"x"])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "damaged"), (b'{"id":"a"}', "damaged"), (b"", "damaged")],
)
def test_a_damaged_topic_file_is_an_error(
    open_stream: OpenStream, partition: Path, content: bytes, message: str
) -> None:
    partition.parent.mkdir(parents=True)
    (partition.parent / "topic.json").write_bytes(content)
    with pytest.raises(StreamError, match=message):
        open_stream().topic_id("actions")


def test_a_topic_of_a_later_format_is_refused(open_stream: OpenStream, partition: Path) -> None:
    open_stream().topic_id("actions")
    path = partition.parent / "topic.json"
    path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":2'))
    with pytest.raises(StreamError, match="format 2"):
        open_stream().topic_id("actions")


def test_append_times_must_be_as_many_as_payloads(open_stream: OpenStream) -> None:
    with pytest.raises(StreamError, match="2 append times were given for 1 payloads"):
        open_stream().append("actions", 0, [b"x"], [1, 2])


def test_threads_append_and_read_at_the_same_time(
    open_stream: OpenStream, read_all: ReadAll
) -> None:
    stream = open_stream(segment_bytes=20_000, sync_ms=1)
    writers, appends = 4, 60

    def write(writer: int) -> None:
        for i in range(appends):
            stream.append("actions", 0, [msgspec.json.encode((writer, i, j)) for j in range(5)])

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    tail: list[Record] = []
    while len(tail) < writers * appends * 5:
        tail += stream.read("actions", 0, len(tail), 50)
    for thread in threads:
        thread.join()
    assert tail == read_all(stream)
    written = [tuple(msgspec.json.decode(record.payload)) for record in tail]
    for writer in range(writers):
        mine = [entry for entry in written if entry[0] == writer]
        assert mine == [(writer, i, j) for i in range(appends) for j in range(5)]


def test_sync_says_in_the_head_that_everything_is_on_disk(
    open_stream: OpenStream, partition: Path
) -> None:
    stream = open_stream(sync_ms=60_000, segment_bytes=100)
    for _ in range(10):
        stream.append("actions", 0, [b"x" * 60])
    head = HeadFile(partition / "head")
    assert head.read().synced.offset == 0
    stream.sync()
    assert head.read().synced == head.read().end
    head.close()


def test_appended_records_are_synced_in_the_background(
    open_stream: OpenStream, partition: Path
) -> None:
    stream = open_stream(sync_ms=1)
    stream.append("actions", 0, [b"x"])
    head = HeadFile(partition / "head")
    deadline = time.monotonic() + 60
    while head.read().synced != head.read().end:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    head.close()


def test_a_failed_fsync_is_an_error_for_good(open_stream: OpenStream, partition: Path) -> None:
    stream = open_stream(sync_ms=60_000)
    stream.append("actions", 0, [b"x"])
    log = partition / f"{0:020}.log"
    log.rename(partition / "away")
    log.symlink_to("nowhere")
    with pytest.raises(StreamError, match="a sync failed"):
        stream.sync()
    (partition / "away").replace(log)
    for again in (stream.sync, lambda: stream.append("actions", 0, [b"y"]), stream.close):
        with pytest.raises(StreamError, match="a sync failed"):
            again()
    assert open_stream().bounds("actions", 0) == (0, 1)


@contextmanager
def no_file_larger_than(size_bytes: int) -> Iterator[None]:
    """What a full disk does, done by the kernel on request."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_append_that_the_disk_refuses_keeps_nothing(
    open_stream: OpenStream, read_all: ReadAll
) -> None:
    stream = open_stream()
    stream.append("actions", 0, [b"kept"])
    with (
        no_file_larger_than(200_000),
        pytest.raises(StreamError, match=r"append to .*none of its 1000 records"),
    ):
        stream.append("actions", 0, [b"x" * 1000] * 1000)
    assert [record.payload for record in read_all(stream)] == [b"kept"]
    assert stream.append("actions", 0, [b"also kept"]) == 1
    assert [record.payload for record in read_all(stream)] == [b"kept", b"also kept"]


def test_a_closed_stream_says_so(open_stream: OpenStream) -> None:
    stream = open_stream()
    stream.append("actions", 0, [b"x"])
    stream.close()
    stream.close()
    with pytest.raises(StreamError, match="is closed"):
        stream.append("actions", 0, [b"x"])


FORKED = """
import os, sys
from pathlib import Path
from service.errors import StreamError
from service.streams import LocalStream

stream = LocalStream(Path(sys.argv[1]))
stream.append("actions", 0, [b"x"])
if os.fork() == 0:
    try:
        stream.append("actions", 0, [b"x"])
    except StreamError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
stream.close()
"""


def test_a_stream_does_not_pass_through_a_fork(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, str(tmp_path / "log")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "before a fork" in ran.stdout


def test_one_append_reaches_several_partitions(tmp_path: Path) -> None:
    with closing(LocalStream(tmp_path, LocalStreamSettings(partitions=3))) as stream:
        keys = [b"u%d" % number for number in range(9)]
        stream.append_keyed("t", [b"of " + key for key in keys], keys)
        found = [[r.payload for r in stream.read("t", p, 0, 9)] for p in range(3)]
    for partition, payloads in enumerate(found):
        chosen = [key for key in keys if partition_of_key(key, 3) == partition]
        assert payloads == [b"of " + key for key in chosen]
        assert payloads
