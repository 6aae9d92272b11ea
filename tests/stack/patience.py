"""Waiting for what another process does, with a bound."""

import time
from collections.abc import Callable, Sequence

from service.streams import Record, Stream

PATIENCE_SECONDS = 30.0


def until(holds: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Return once it holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.01)


def read_on(
    stream: Stream, count: int, offset: int = 0, topic: str = "actions", partition: int = 0
) -> list[Record]:
    """The next `count` records from an offset on, however many reads they take."""
    records: list[Record] = []

    def enough() -> bool:
        at = records[-1].offset + 1 if records else offset
        records.extend(stream.read(topic, partition, at, 100))
        return len(records) >= count

    until(enough)
    return records


def payloads(records: Sequence[Record]) -> list[bytes]:
    """Only the payloads."""
    return [record.payload for record in records]
