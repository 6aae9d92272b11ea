"""Starts the stack that is measured: real processes on a folder of their own."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.report import CheckFailed, progress
from benchmarks.stack.accounts import ends
from benchmarks.stack.past import append_past
from benchmarks.stack.plan import Plan
from benchmarks.stack.sent import Sent
from service.client import Client
from service.commands.folder import DataFolder
from service.commands.processes import Child, environment, free_port
from service.commands.settings_file import overlay, write_settings
from service.settings import Settings
from service.streams import Stream, open_stream
from tests.stack.brokers import Broker
from tests.stack.redises import RedisServer

READY_SECONDS = 240.0
SETTINGS: dict[str, Any] = {
    "model": {"dim": 64, "layers": 2, "window": 256},
    "actions": {"types": {"click": {"positive": True, "weight": 1.0}}},
    "trainer": {"block_records": 2048, "nice": 10, "stochastic_length": 1.2},
}


OWN = "own"


@dataclass(frozen=True)
class Shape:
    """What a stack is made of."""

    servers: int = 1
    kafka: str | None = None
    """Where it is, OWN to start one from the tests' cache, None for the embedded log."""
    redis: bool = False
    """Whether histories live in a Redis, which is started, with a writer of their own."""
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Site:
    """A running stack: who is in it, and where its data lie."""

    folder: DataFolder
    stream: Stream
    trainer: Child
    servers: list[Child]
    broker: Broker | None = None
    redis: RedisServer | None = None
    writer: Child | None = None
    """Of the histories in Redis."""

    @property
    def pids(self) -> dict[str, int]:
        """Every process, by name."""
        servers = {f"server {n}": one.pid for n, one in enumerate(self.servers, 1)}
        others = {"histories": self.writer, "kafka": self.broker, "redis": self.redis}
        return {
            "trainer": self.trainer.pid,
            **servers,
            **{name: other.pid for name, other in others.items() if other is not None},
        }

    @property
    def lag(self) -> int:
        """Records in the stream that the trainer has not learned."""
        return int(self.trainer.look().get("stream_lag_records", -1))

    @property
    def drained(self) -> bool:
        """Whether the newest version has learned the log to its end."""
        manifest = self.folder.newest_manifest()
        return manifest is not None and all(
            manifest["offsets"][topic][str(partition)] == end
            for topic, of_topic in ends(self.stream).items()
            for partition, end in enumerate(of_topic)
        )

    def look(self) -> None:
        """Raise ProcessError if a process has ended."""
        for child in (self.trainer, *self.servers, self.writer):
            if child is not None and not child.running:
                raise CheckFailed(f"{child.module} ended; see {child.log}")

    def client(self, server: int = 0) -> Client:
        """A client of one server."""
        return Client(f"http://127.0.0.1:{self.servers[server].port}")

    @contextmanager
    def load(self, plan: Plan, name: str) -> Iterator["Load"]:
        """A generator that works beside the block."""
        load = Load(self.folder, plan, name)
        try:
            yield load
        finally:
            load.end()


class Load:
    """A generator as a child process; `sent` once it has ended."""

    def __init__(self, folder: DataFolder, plan: Plan, name: str) -> None:
        self._result, written = folder.root / f"{name}.npz", folder.root / f"{name}.json"
        plan.write(written)
        paths = (written, folder.settings, folder.root, self._result)
        command = [sys.executable, "-m", "benchmarks.stack.generator", *map(str, paths)]
        self._process = subprocess.Popen(command, env=environment())
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        """Whether it still sends. Raises CheckFailed if it failed."""
        status = self._process.poll()
        if status:
            raise CheckFailed(f"the load ended with status {status}; what it said stands above")
        return status is None

    @property
    def sent(self) -> Sent:
        """What it did."""
        return Sent.read(self._result)

    def finish(self) -> Sent:
        """Let nothing more be due, wait for the answers, and return what was done."""
        if self.running:
            self._process.terminate()
            self._process.wait()
        assert not self.running
        return self.sent

    def end(self) -> None:
        """End it at once if it still runs."""
        self._process.kill()
        self._process.wait()


@contextmanager
def started(plan: Plan, shape: Shape, past: int) -> Iterator[tuple[Site, Plan]]:
    """A stack that has learned a past and is ready, and the plan with the ports of its servers."""
    with ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="freshet-stack-"))
        folder, settings = DataFolder(Path(root)), dict(shape.settings)
        broker = redis = None
        if shape.kafka == OWN:
            broker = stack.enter_context(Broker(folder.root / "kafka"))
        if shape.kafka:
            address = broker.servers if broker else shape.kafka
            settings["kafka"] = {"servers": address, "prefix": f"load{os.getpid()}."}
        if shape.redis:
            redis = stack.enter_context(RedisServer(folder.root / "redis"))
            settings["redis"] = {"url": redis.url}
        write_settings(folder.settings, overlay(SETTINGS, settings))
        stream = stack.enter_context(
            closing(open_stream(Settings.load(folder.settings), folder.root))
        )
        progress(f"a past of {past:,} actions")
        append_past(stream, plan, past)
        trainer = stack.enter_context(folder.trainer(free_port()))
        site = Site(folder, stream, trainer, [], broker, redis)
        if shape.redis:
            site.writer = stack.enter_context(_writer(folder))
        wait_until(lambda: site.drained, site)
        for number in range(shape.servers):
            site.servers.append(stack.enter_context(folder.server(free_port())))
            with site.client(number) as client:
                wait_until(client.ready, site)
        ports = [one.port for one in site.servers]
        yield site, msgspec.structs.replace(plan, ports=ports)


def _writer(folder: DataFolder) -> Child:
    port = free_port()
    arguments = [*folder.arguments(), "--metrics-port", str(port)]
    return Child("service.histories", arguments, folder.log("histories"), port)


def wait_until(holds: Callable[[], bool], site: Site, seconds: float = READY_SECONDS) -> None:
    """Return once it holds. Raises CheckFailed when it takes too long."""
    deadline = time.monotonic() + seconds
    while not holds():
        site.look()
        if time.monotonic() > deadline:
            raise CheckFailed(f"the stack was not where it should be within {seconds:.0f} s")
        time.sleep(0.2)
