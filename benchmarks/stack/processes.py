"""Starts the stack that is measured: real processes on a folder of their own."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

READY_SECONDS = 240.0
SETTINGS: dict[str, Any] = {
    "model": {"dim": 64, "layers": 2, "window": 256},
    "actions": {"types": {"click": {"positive": True, "weight": 1.0}}},
}


@dataclass
class Site:
    """A running stack: who is in it, and where its data lie."""

    folder: DataFolder
    stream: Stream
    trainer: Child
    servers: list[Child]
    others: Mapping[str, int]
    """Process ids of what is neither trainer nor server, by name."""

    @property
    def pids(self) -> dict[str, int]:
        """Every process, by name."""
        servers = {f"server {n}": one.pid for n, one in enumerate(self.servers, 1)}
        return {"trainer": self.trainer.pid, **servers, **self.others}

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
        for child in (self.trainer, *self.servers):
            if not child.running:
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

    def end(self) -> None:
        """End it at once if it still runs."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()


@contextmanager
def started(
    plan: Plan, servers: int, past: int, settings: Mapping[str, Any]
) -> Iterator[tuple[Site, Plan]]:
    """A stack that has learned a past and is ready, and the plan with the ports of its servers."""
    with ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="freshet-stack-"))
        folder = DataFolder(Path(root))
        write_settings(folder.settings, overlay(SETTINGS, settings))
        stream = stack.enter_context(
            closing(open_stream(Settings.load(folder.settings), folder.root))
        )
        progress(f"a past of {past:,} actions")
        append_past(stream, plan, past)
        trainer = stack.enter_context(folder.trainer(free_port()))
        site = Site(folder, stream, trainer, [], {})
        wait_until(lambda: site.drained, site)
        for _ in range(servers):
            site.servers.append(stack.enter_context(folder.server(free_port())))
        for number in range(servers):
            with site.client(number) as client:
                wait_until(client.ready, site)
        plan = Plan(**{**_fields(plan), "ports": [one.port for one in site.servers]})
        yield site, plan


def wait_until(holds: Callable[[], bool], site: Site, seconds: float = READY_SECONDS) -> None:
    """Return once it holds. Raises CheckFailed when it takes too long."""
    deadline = time.monotonic() + seconds
    while not holds():
        site.look()
        if time.monotonic() > deadline:
            raise CheckFailed(f"the stack was not where it should be within {seconds:.0f} s")
        time.sleep(0.2)


def _fields(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in plan.__struct_fields__}
