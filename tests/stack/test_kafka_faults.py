"""Kafka killed, paused and cut off under a KafkaStream: nothing acknowledged is lost, reading goes
on by itself, and who appends is told in time."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from service.errors import StreamError
from service.streams import Record
from service.streams.kafka.stream import KafkaStream
from tests.stack.conftest import Harmed
from tests.stack.patience import payloads, read_on, until

pytestmark = pytest.mark.stack

Open = Callable[..., KafkaStream]


@pytest.fixture
def stream(open_kafka: Open, harmed: Harmed) -> Iterator[KafkaStream]:
    """A stream through the network that can be cut, with little patience."""
    stream = open_kafka(servers=harmed.servers, append_timeout_seconds=2)
    stream.append("actions", 0, [b"first"])
    read_on(stream, 1)
    yield stream
    stream.close()


class Writing:
    """A thread that appends numbers one after another, each until it is acknowledged."""

    def __init__(self, stream: KafkaStream) -> None:
        self._stream = stream
        self.acknowledged: list[int] = []
        self.repeated: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def _write(self) -> None:
        number = 0
        while not self._stop.is_set():
            try:
                self._stream.append("actions", 0, [b"%d" % number])
            except StreamError:
                self.repeated.add(number)
                continue
            self.acknowledged.append(number)
            number += 1
            time.sleep(0.002)

    @contextmanager
    def going_on(self) -> Iterator["Writing"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()

    def more(self, count: int = 20) -> None:
        """Return once so many more were acknowledged."""
        goal = len(self.acknowledged) + count
        until(lambda: len(self.acknowledged) >= goal, 60)


class Reading:
    """A thread that reads all there is."""

    def __init__(self, stream: KafkaStream) -> None:
        self._stream = stream
        self.records: list[Record] = []
        self.failure: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        try:
            while not self._stop.is_set():
                at = self.records[-1].offset + 1 if self.records else 1
                self.records += self._stream.read("actions", 0, at, 100)
                time.sleep(0.002)
        except Exception as failure:
            self.failure = failure

    @contextmanager
    def going_on(self) -> Iterator["Reading"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()


def check_under(harm: Callable[[], None], stream: KafkaStream, reader: KafkaStream) -> None:
    """Write and read while harm is done and undone; then everything is as if it had not been."""
    with Writing(stream).going_on() as writing, Reading(reader).going_on() as reading:
        writing.more()
        harm()
        writing.more()
    _, end = stream.bounds("actions", 0)
    last = [record.offset for record in reading.records][-1:]
    numbers = [int(payload) for payload in payloads(reading.records)]
    if last != [end - 1]:
        numbers += [int(p) for p in payloads(read_on(reader, end - 1 - last[0], last[0] + 1))]
    assert reading.failure is None
    # In their order, each at least once, and only once unless its append was refused and repeated.
    assert sorted(numbers) == numbers
    assert set(numbers) - writing.repeated == set(writing.acknowledged) - writing.repeated
    assert set(writing.acknowledged) <= set(numbers)
    twice = {number for number in numbers if numbers.count(number) > 1}
    assert twice <= writing.repeated


def test_a_broker_that_is_killed_and_comes_back_loses_and_doubles_nothing(
    stream: KafkaStream, open_kafka: Open, harmed: Harmed, caplog: pytest.LogCaptureFixture
) -> None:
    def harm() -> None:
        harmed.broker.kill()
        time.sleep(1)
        harmed.broker.start()

    with caplog.at_level(logging.WARNING, "service.streams.kafka"):
        check_under(harm, stream, open_kafka(servers=harmed.servers))
    assert "Kafka cannot be read, and is tried until it can" in caplog.text
    assert "Kafka is read again" in caplog.text


def test_a_network_that_is_cut_and_mended(
    stream: KafkaStream, open_kafka: Open, harmed: Harmed
) -> None:
    def harm() -> None:
        harmed.network.cut()
        time.sleep(3)
        harmed.network.mend()

    check_under(harm, stream, open_kafka(servers=harmed.servers))


def test_a_network_that_carries_nothing_for_a_while(
    stream: KafkaStream, open_kafka: Open, harmed: Harmed
) -> None:
    def harm() -> None:
        harmed.network.hold()
        time.sleep(6)
        harmed.network.mend()

    check_under(harm, stream, open_kafka(servers=harmed.servers))


def test_who_appends_to_a_broker_that_does_not_answer_is_told_in_time(
    stream: KafkaStream, harmed: Harmed
) -> None:
    harmed.broker.pause()
    try:
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(StreamError, match=r"Kafka at 127\.0\.0\.1"):
                stream.append("actions", 0, [b"unanswered"])
            assert time.monotonic() - began < 4
        assert stream.read("actions", 0, 1, 10) == []
    finally:
        harmed.broker.go_on()
    until(lambda: appended(stream, b"after"), 60)
    found = payloads(read_on(stream, stream.bounds("actions", 0)[1] - 1, 1))
    assert found[-1] == b"after"
    assert set(found) <= {b"unanswered", b"after"}


def appended(stream: KafkaStream, payload: bytes) -> bool:
    """Whether an append is taken."""
    try:
        stream.append("actions", 0, [payload])
    except StreamError:
        return False
    return True


def test_a_reader_that_starts_while_the_broker_is_away_is_told_and_may_ask_again(
    open_kafka: Open, harmed: Harmed
) -> None:
    harmed.network.cut()
    stream = open_kafka(servers=harmed.servers)
    try:
        with pytest.raises(StreamError, match="does not answer"):
            stream.read("actions", 0, 0, 10)
    finally:
        harmed.network.mend()
    time.sleep(1)
    assert stream.read("actions", 0, 0, 10) == []
    stream.close()
