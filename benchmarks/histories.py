"""How fast histories go into Redis, and how soon a ranking has one.

`write_per_second`: actions of one stream of four partitions through the writer, from the first read
to the last value; `read_seconds`: one user's value asked of the reader that servers use, one after
the other (with settings.quantile). It needs a Redis (`--redis`), uses a prefix of its own there,
and removes what it wrote.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import msgspec
import numpy as np
from redis import Redis

from benchmarks import report
from benchmarks.report import CheckFailed, Figure
from service.action_types import ActionTypes
from service.actions import Action, key_of, partition_of
from service.histories.local import LocalHistories
from service.histories.redis.rules import Rules
from service.histories.redis.store import HistoryStore
from service.histories.redis.values import history_of
from service.histories.redis.writer import HistoryWriter
from service.histories.settings import HistorySettings
from service.histories.starting import TOPIC, alone, intake_after
from service.intake_settings import IntakeSettings
from service.metrics import HistoryMetrics
from service.redis.connection import connect, redis_errors
from service.redis.settings import RedisSettings
from service.streams import LocalStream, LocalStreamSettings
from service.versions import VersionDirectory

PARTITIONS, READS = 4, 5000
START = 1_732_096_800.0


def main() -> int:
    """The command `python -m benchmarks.histories`."""
    options = report.parser(__doc__)
    options.add_argument("--redis", default="redis://127.0.0.1:6379/0", help="url of a Redis")
    options.add_argument("--actions", type=int, help="actions per run (400,000; quick: 100,000)")
    options.add_argument("--users", type=int, default=20_000)
    options.add_argument("--capacity", type=int, default=512, help="events kept per user")
    options.add_argument("--runs", type=int, default=3)
    return report.run(options, check, measure)


def check(options: argparse.Namespace) -> None:
    """Every user's value says what LocalHistories does."""
    with bench(options, 20_000) as here:
        here.write()
        if here.wrong():
            raise CheckFailed(f"{here.wrong()} users' values are not what LocalHistories holds")


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """Write the stream `runs` times, each under a prefix of its own; read from the last."""
    count = options.actions or (100_000 if options.quick else 400_000)
    shown = {"users": options.users, "capacity": options.capacity, "partitions": PARTITIONS}
    rates = []
    for _ in range(options.runs):
        with bench(options, count) as here:
            rates.append(count / here.write())
            waits = here.reads()
    yield Figure.of("histories.redis.write_per_second", "1/s", rates, **shown)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        value = [float(np.quantile(waits, share))]
        yield Figure.of("histories.redis.read_seconds", "s", value, quantile=name, **shown)


class Bench:
    """One stream of actions, and one prefix of one Redis."""

    def __init__(self, options: argparse.Namespace, stream: LocalStream, root: Path) -> None:
        self.settings = RedisSettings(url=options.redis, prefix=f"bench-{uuid4().hex[:8]}:")
        self.histories = HistorySettings(capacity=options.capacity)
        self.stream, self.directory = stream, VersionDirectory(root / "versions")
        self.rules = Rules(ActionTypes(), IntakeSettings(), self.histories, self.settings)
        self.client: Redis = connect(self.settings)
        self.store = HistoryStore(self.client, self.settings.prefix, self.histories)
        self.users = [f"u{number}" for number in range(options.users)]

    def fill(self, count: int) -> None:
        """Append actions, a hundred a second; few users have most."""
        make, payloads = np.random.default_rng(0), [[] for _ in range(PARTITIONS)]
        user_T = (len(self.users) * make.random(count) ** 2).astype(int).tolist()
        item_T = make.integers(0, 10_000, count).tolist()
        for n, (user, item) in enumerate(zip(user_T, item_T, strict=True)):
            name, at = self.users[user], START + n / 100
            action = Action(user=name, item=item, action="click", at=at, id=f"a{n}")
            payloads[partition_of(name, PARTITIONS)].append(msgspec.json.encode(action))
        for partition, some in enumerate(payloads):
            self.stream.append(TOPIC, partition, some, round(START * 1000))

    def write(self) -> float:
        """Seconds from the start of a writer to the end of the stream."""
        stop, metrics = threading.Event(), HistoryMetrics()
        writer = HistoryWriter(self.stream, self.directory, self.store, self.rules, metrics)
        thread = threading.Thread(target=writer.run, args=(stop,))
        ends = {p: self.stream.bounds(TOPIC, p)[1] for p in range(PARTITIONS)}
        began = time.perf_counter()
        thread.start()
        while (found := self.store.progress(self.stream.topic_id(TOPIC))) is None or (
            found.offsets != ends
        ):
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        stop.set()
        thread.join()
        return seconds

    def wrong(self) -> int:
        """Users whose value differs from what the same stream makes in one process."""
        local = LocalHistories(self.histories)
        intake = intake_after(self.stream, alone(self.rules.intake), self.rules.types, None)
        while block := intake.block(self.settings.write_records, 0.0):
            local.append(block.events, block.watermark_ms)
        keys = [key_of(user) for user in self.users]
        wrong = 0
        for key, value in zip(keys, self.store.read(keys), strict=True):
            expected = local.read(np.array([key]), self.histories.capacity)
            found = history_of(value, self.histories)
            same = np.array_equal(found.count_B, expected.count_B)
            wrong += not (same and np.array_equal(found.item_T, expected.item_T))
        return wrong

    def reads(self) -> list[float]:
        """Seconds of each of some reads."""
        make, waits = np.random.default_rng(1), []
        for number in make.integers(0, len(self.users), READS).tolist():
            began = time.perf_counter()
            self.store.read([key_of(self.users[number])])
            waits.append(time.perf_counter() - began)
        return waits

    def remove(self) -> None:
        """Leave nothing behind."""
        for key in self.client.scan_iter(f"{self.settings.prefix}*", count=10_000):
            self.client.delete(key)


@contextmanager
def bench(options: argparse.Namespace, count: int) -> Iterator[Bench]:
    """A filled stream in a folder of its own."""
    with tempfile.TemporaryDirectory() as root:
        settings = LocalStreamSettings(partitions=PARTITIONS)
        with closing(LocalStream(Path(root) / "stream", settings)) as stream:
            here = Bench(options, stream, Path(root))
            with closing(here.client), redis_errors():
                here.client.ping()
                here.fill(count)
                try:
                    yield here
                finally:
                    here.remove()


if __name__ == "__main__":
    raise SystemExit(main())
