"""A stream whose actions a writer puts into Redis, and what its values must be."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from service.action_types import ActionTypes
from service.actions import Action, key_of, partition_of
from service.histories.local import Histories, LocalHistories
from service.histories.redis.progress import Progress
from service.histories.redis.rules import Rules
from service.histories.redis.store import HistoryStore
from service.histories.redis.values import history_of
from service.histories.redis.writer import HistoryWriter
from service.histories.settings import HistorySettings
from service.histories.starting import TOPIC, alone, intake_after
from service.intake_settings import IntakeSettings
from service.metrics import HistoryMetrics, Readings
from service.redis.connection import connect
from service.redis.settings import RedisSettings
from service.streams import LocalStream, LocalStreamSettings, Stream
from service.versions import VersionDirectory
from tests.stack.redises import RedisServer

KINDS = tuple(ActionTypes().types)
DAY = 86_400.0
START = 1_732_096_800.0


def random_actions(seed: int, count: int, users: int = 30, late_days: float = 0.5) -> list[Action]:
    """Actions of few users: repeated ids, late events, pauses of four days.

    With a time-to-live of three, a user who comes back after a pause begins anew. If events may be
    later than a day, it depends on where blocks end: give then whole blocks.
    """
    make, at, made = np.random.default_rng(seed), START, []
    for n in range(count):
        at += float(make.exponential(60.0))
        if make.random() < 0.0007:
            at += 4 * DAY
        late = float(make.random()) * late_days * DAY if make.random() < 0.1 else 0.0
        name = f"a{n - int(make.integers(0, 90))}" if make.random() < 0.5 else None
        made.append(
            Action(
                user=f"u{int(users * make.random() ** 3)}",
                item=int(make.integers(0, 1000)),
                action=KINDS[int(make.integers(len(KINDS)))],
                at=round(at - late, 3),
                id=name,
            )
        )
    return made


class Followed:
    """Topic `actions` in `data`, and one prefix of one Redis (or a store of the test's own)."""

    def __init__(
        self,
        data: Path,
        server: RedisServer | None,
        partitions: int = 3,
        stream: Stream | None = None,
        **redis: Any,
    ) -> None:
        self.data = data
        self.stream = stream or LocalStream(
            data / "stream", LocalStreamSettings(partitions=partitions)
        )
        self.directory = VersionDirectory(data / "versions")
        self.rules = Rules(
            ActionTypes(),
            IntakeSettings(),
            HistorySettings(ttl_seconds=3 * DAY, capacity=64),
            RedisSettings(
                retry_seconds=0.02,
                **{"write_records": 256, **({"url": server.url} if server else {}), **redis},
            ),
        )
        self.metrics = HistoryMetrics()
        self.client = server.client() if server else connect(self.rules.redis)
        self.store = HistoryStore(self.client, self.rules.redis.prefix, self.rules.histories)

    def append(self, actions: Sequence[Action]) -> None:
        """Into the log, each at its event time."""
        partitions = self.stream.partitions(TOPIC)
        by_partition: dict[int, list[Action]] = {}
        for action in actions:
            by_partition.setdefault(partition_of(action.user, partitions), []).append(action)
        for partition, some in by_partition.items():
            payloads = [msgspec.json.encode(action) for action in some]
            times = [round(action.at * 1000) for action in some]
            keys = [str(action.user).encode() for action in some]
            self.stream.append(TOPIC, partition, payloads, times, keys)

    @property
    def ends(self) -> dict[int, int]:
        partitions = range(self.stream.partitions(TOPIC))
        return {partition: self.stream.bounds(TOPIC, partition)[1] for partition in partitions}

    @property
    def progress(self) -> Progress | None:
        return self.store.progress(self.stream.topic_id(TOPIC))

    def writer(self, store: HistoryStore | None = None) -> HistoryWriter:
        return HistoryWriter(
            self.stream, self.directory, store or self.store, self.rules, self.metrics
        )

    @contextmanager
    def running(self, store: HistoryStore | None = None) -> Iterator[None]:
        """A writer at work inside."""
        stop, writer = threading.Event(), self.writer(store)
        thread = threading.Thread(target=writer.run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def until_written(self, seconds: float = 30.0) -> None:
        """Return when Redis holds everything that is in the log."""

        def written() -> bool:
            progress = self.progress
            return progress is not None and progress.offsets == self.ends

        until(written, seconds)

    def write(self) -> None:
        """Follow to the end of the log."""
        with self.running():
            self.until_written()

    def local(self) -> tuple[LocalHistories, int]:
        """The same log in the memory of one process, and its watermark."""
        histories = LocalHistories(self.rules.histories)
        intake = intake_after(self.stream, alone(self.rules.intake), self.rules.types, None)
        while intake.offsets[TOPIC] != self.ends:
            block = intake.block(self.rules.redis.write_records, 0.01)
            if block is not None:
                histories.append(block.events, block.watermark_ms)
        return histories, intake.watermark_ms

    def value(self, user: str | int) -> bytes | None:
        return self.store.read([key_of(user)])[0]

    def values(self) -> dict[bytes, bytes | None]:
        """Everything that is kept of users."""
        keys: Any = sorted(self.client.keys(f"{self.rules.redis.prefix}h:*"))
        values: Any = self.client.mget(keys) if keys else []
        return dict(zip(keys, values, strict=True))

    def history(self, user: str | int, now_ms: int = 0) -> Histories:
        return history_of(self.value(user), self.rules.histories, now_ms)

    def items(self, user: str | int) -> list[int]:
        items: list[int] = self.history(user).item_T.tolist()
        return items

    def read(self, name: str, **labels: str) -> float:
        return Readings(self.metrics.text().decode()).get(name, **labels)

    def close(self) -> None:
        self.client.close()
        self.stream.close()


def same(found: Histories, expected: Histories) -> bool:
    """Whether two reads say the same."""
    names = ("offsets", "item_T", "action_T", "at_ms_T", "count_B")
    return all(np.array_equal(getattr(found, n), getattr(expected, n)) for n in names)


def until(holds: Any, seconds: float = 20.0) -> Any:
    """Return what `holds` returns once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.005)
    raise AssertionError(f"not true within {seconds} s")
