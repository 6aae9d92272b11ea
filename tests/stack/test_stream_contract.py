"""What every stream does, the embedded one and Kafka: the same tests for both."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.actions import partition_of, partition_of_key, stream_key
from service.errors import OffsetError, StreamError
from service.streams import Lag, LocalStream, LocalStreamSettings, Record, Stream
from tests.stack.patience import payloads, read_on, until

pytestmark = pytest.mark.stack

Open = Callable[..., Stream]


@pytest.fixture(params=["local", "kafka"])
def open_stream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Open streams that keep given times, all on the same topics."""
    if request.param == "kafka":
        open_kafka = request.getfixturevalue("open_kafka")
        yield lambda partitions=1: open_kafka(partitions=partitions, timestamps="producer")
        return
    opened: list[LocalStream] = []

    def open_another(partitions: int = 1) -> LocalStream:
        opened.append(LocalStream(tmp_path / "log", LocalStreamSettings(partitions=partitions)))
        return opened[-1]

    yield open_another
    for stream in opened:
        stream.close()


def test_what_is_appended_is_read(open_stream: Open) -> None:
    stream = open_stream()
    assert stream.append("actions", 0, [b"a", b"b\nc\0\xff"], 1234, [b"u1", b"u2"]) == 0
    assert stream.append("actions", 0, [b"", b"d"], [5, 6], [b"u1", b"u1"]) == 2
    expected = [(0, 1234, b"a"), (1, 1234, b"b\nc\0\xff"), (2, 5, b""), (3, 6, b"d")]
    assert [record[:3] for record in read_on(stream, 4)] == expected
    assert [record[:3] for record in read_on(stream, 2, offset=2)] == expected[2:]
    assert stream.read("actions", 0, 4, 10) == []
    assert stream.bounds("actions", 0) == (0, 4)


def test_without_a_time_it_is_now(open_stream: Open) -> None:
    stream, before = open_stream(), time.time_ns() // 1_000_000
    stream.append("actions", 0, [b"now"], keys=[b"u"])
    (record,) = read_on(stream, 1)
    assert before - 1 <= record.append_ms <= time.time_ns() // 1_000_000 + 1


def test_nothing_is_appended_by_an_empty_append(open_stream: Open) -> None:
    stream = open_stream()
    stream.append("actions", 0, [b"a"])
    assert stream.append("actions", 0, []) == 1
    assert stream.bounds("actions", 0) == (0, 1)


def test_times_and_keys_must_be_as_many_as_payloads(open_stream: Open) -> None:
    stream = open_stream()
    with pytest.raises(StreamError, match="2 append times were given for 3 payloads"):
        stream.append("actions", 0, [b"a", b"b", b"c"], [1, 2])
    assert stream.bounds("actions", 0) == (0, 0)


def test_the_limit_holds_and_reading_goes_on_behind_it(open_stream: Open) -> None:
    stream, sent = open_stream(), [b"%d" % number for number in range(5000)]
    for start in range(0, len(sent), 700):
        stream.append("actions", 0, sent[start : start + 700])
    found: list[Record] = []
    while len(found) < len(sent):
        at, limit = len(found), 7 if len(found) < 70 else 4096
        batch = stream.read("actions", 0, at, limit)
        assert len(batch) <= limit
        found += batch
    assert payloads(found) == sent


def test_every_partition_has_offsets_of_its_own(open_stream: Open) -> None:
    stream = open_stream(partitions=3)
    assert stream.partitions("actions") == 3
    for partition in range(3):
        assert stream.append("actions", partition, [b"%d" % partition] * (partition + 1)) == 0
    for partition in range(3):
        found = read_on(stream, partition + 1, partition=partition)
        assert payloads(found) == [b"%d" % partition] * (partition + 1)
    for missing in (3, -1):
        with pytest.raises(StreamError, match=f"partitions 0 to 2, not {missing}"):
            stream.append("actions", missing, [b"x"])
        with pytest.raises(StreamError, match=f"partitions 0 to 2, not {missing}"):
            stream.read("actions", missing, 0, 1)


def test_another_process_sees_the_same_topic(open_stream: Open) -> None:
    one, other = open_stream(), open_stream()
    one.append("actions", 0, [b"a"])
    assert one.topic_id("actions") == other.topic_id("actions") != one.topic_id("impressions")
    assert payloads(read_on(other, 1)) == [b"a"]
    one.append("actions", 0, [b"b"])
    assert payloads(read_on(other, 1, offset=1)) == [b"b"]


def test_appends_of_many_threads_are_whole_and_in_each_ones_order(open_stream: Open) -> None:
    stream = open_stream()

    def write(writer: int) -> None:
        for number in range(20):
            stream.append("actions", 0, [b"%d %d %d" % (writer, number, i) for i in range(5)])

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = payloads(read_on(stream, 800))
    for writer in range(8):
        own = [payload for payload in found if payload.startswith(b"%d " % writer)]
        assert own == [b"%d %d %d" % (writer, n, i) for n in range(20) for i in range(5)]


def test_an_offset_beyond_the_end_is_an_error(open_stream: Open) -> None:
    stream = open_stream()
    stream.append("actions", 0, [b"a"])

    def refused() -> bool:
        try:
            assert stream.read("actions", 0, 9, 10) == []
        except OffsetError as error:
            return "9" in str(error)
        return False

    until(refused)
    assert payloads(read_on(stream, 1)) == [b"a"]


def test_a_time_has_its_first_offset(open_stream: Open) -> None:
    stream = open_stream()
    stream.append("actions", 0, [b"x"] * 10, list(range(1000, 1100, 10)))
    assert stream.first_since("actions", 0, 0) == 0
    assert stream.first_since("actions", 0, 1040) == 4
    assert stream.first_since("actions", 0, 1041) == 5
    assert stream.first_since("actions", 0, 2000) == 10


def test_a_reader_at_the_end_has_drained_the_partition(open_stream: Open) -> None:
    stream = open_stream()
    assert stream.drained("actions", 0, 0)
    stream.append("actions", 0, [b"x"] * 3)
    assert not stream.drained("actions", 0, 0)
    read_on(stream, 3)
    assert stream.drained("actions", 0, 3)
    stream.append("actions", 0, [b"x"])
    assert not stream.drained("actions", 0, 3)


def test_the_lag_is_what_was_not_read(open_stream: Open) -> None:
    stream = open_stream()
    stream.append("actions", 0, [b"x"] * 10)
    read_on(stream, 10)
    until(lambda: stream.lag({"actions": {0: 4}}) == {"actions": Lag(6, 0.4)})
    assert stream.lag({"actions": {0: 10}}) == {"actions": Lag(0, 1.0)}


def test_a_closed_stream_says_so(open_stream: Open) -> None:
    stream = open_stream()
    stream.append("actions", 0, [b"x"])
    stream.close()
    stream.close()
    with pytest.raises(StreamError, match="closed; open another"):
        stream.append("actions", 0, [b"x"])
    with pytest.raises(StreamError, match="closed; open another"):
        stream.read("actions", 0, 0, 1)


def test_a_user_has_one_partition_and_order(open_stream: Open) -> None:
    stream, users = open_stream(partitions=4), [f"u{number}" for number in range(40)]
    for number in range(3):
        for user in users:
            key = stream_key(user)
            stream.append("actions", partition_of(user, 4), [b"%s %d" % (key, number)], keys=[key])
    found: list[bytes] = []
    for partition in range(4):
        _, end = stream.bounds("actions", partition)
        found += payloads(read_on(stream, end, partition=partition)) if end else []
    for user in users:
        key = stream_key(user)
        own = [payload for payload in found if payload.startswith(key + b" ")]
        assert own == [b"%s %d" % (key, number) for number in range(3)]


def test_one_append_reaches_several_partitions_each_in_order(open_stream: Open) -> None:
    stream, keys = open_stream(partitions=4), [b"u%d" % number for number in range(40)]
    for number in range(2):
        sent = [b"%s %d" % (key, number) for key in keys]
        stream.append_keyed("actions", sent, keys, list(range(40)))
    stream.append_keyed("actions", [], [])
    for partition in range(4):
        chosen = [key for key in keys if partition_of_key(key, 4) == partition]
        expected = [b"%s %d" % (key, number) for number in range(2) for key in chosen]
        assert payloads(read_on(stream, len(expected), partition=partition)) == expected
    with pytest.raises(StreamError, match="1 keys were given for 2 payloads"):
        stream.append_keyed("actions", [b"x", b"y"], [b"u"])
