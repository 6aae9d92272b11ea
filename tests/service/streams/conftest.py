"""Streams on a real directory, and the helpers that damage them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.streams import LocalStream, LocalStreamSettings, Record
from service.streams.head import Head, HeadFile, Place

OpenStream = Callable[..., LocalStream]


@pytest.fixture
def open_stream(tmp_path: Path) -> Iterator[OpenStream]:
    """Open streams on one directory; all are closed after the test."""
    opened: list[LocalStream] = []

    def open_another(**settings: int) -> LocalStream:
        stream = LocalStream(tmp_path / "log", LocalStreamSettings(**settings))
        opened.append(stream)
        return stream

    yield open_another
    for stream in opened:
        stream.close()


@pytest.fixture
def partition(tmp_path: Path) -> Path:
    """The directory of partition 0 of the topic `actions` of those streams."""
    return tmp_path / "log" / "actions" / "0"


@pytest.fixture
def read_all() -> Callable[..., list[Record]]:
    """Read a partition from its first record to its end, a few records at a time."""

    def read(stream: LocalStream, topic: str = "actions", step: int = 97) -> list[Record]:
        offset, _ = stream.bounds(topic, 0)
        records: list[Record] = []
        while batch := stream.read(topic, 0, offset, step):
            records += batch
            offset = batch[-1].offset + 1
        return records

    return read


@pytest.fixture
def power_loss(partition: Path) -> Callable[..., Head]:
    """Make the partition look as after a boot, with the head that the disk happened to keep.

    Call it with every stream closed. Returns the head as it was.
    """

    def lose_power(end: Place | None = None, synced: Place | None = None) -> Head:
        file = HeadFile(partition / "head")
        head = file.read()
        file.write(head.moved(end, synced)._replace(boot=b"an earlier boot."))
        file.close()
        return head

    return lose_power
