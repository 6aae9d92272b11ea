"""A server of several processes, started as `python -m serving` is."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.commands.processes import environment, free_port
from service.commands.settings_file import write_settings
from service.metrics import Readings

ROOT = Path(__file__).parents[3]
LISTENING = "Application startup complete"


@dataclass
class Several:
    """A server as a process, and its workers."""

    process: subprocess.Popen
    url: str
    log: Path

    def until(self, holds: Callable[[], Any], seconds: float = 240.0) -> Any:
        """Return what `holds` returns once it is true; fail when that takes too long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := holds():
                return found
            time.sleep(0.02)
        raise AssertionError(f"not true within {seconds} s; the log: {self.said()}")

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text()[-4000:]

    def ready(self) -> bool:
        assert self.process.poll() is None, self.said()
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5).is_success
        except httpx.TransportError:
            return False

    def metrics(self) -> Readings:
        return Readings(httpx.get(f"{self.url}/metrics", timeout=10).text)

    @staticmethod
    def parse(text: str) -> Readings:
        return Readings(text)

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return children(self.process.pid)

    def open(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    of_threads = [text] + [
        (task / "children").read_text()
        for task in Path(f"/proc/{pid}/task").iterdir()
        if task.name != str(pid)
    ]
    return [int(one) for one in " ".join(of_threads).split()]


def alive(pid: int) -> bool:
    """Whether it runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def started(data: Path, workers: int, **sections: Any) -> Iterator[Several]:
    given = sections.get("serving", {})
    # Nothing is refused because other tests keep the machine busy.
    patient = {"deadline_seconds": 60.0}
    sections["serving"] = {"dense": "fp32", "http_workers": workers, **patient, **given}
    write_settings(data / "settings.toml", sections)
    port = free_port()
    command = [sys.executable, "-m", "serving", "--data", str(data), "--port", str(port)]
    log = data / f"log-{port}"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--settings", str(data / "settings.toml")],
            cwd=ROOT, stderr=output, env={**environment(), "TMPDIR": str(data)},
        )  # fmt: skip
        several = Several(process, f"http://127.0.0.1:{port}", log)
        left: list[int] = []
        try:
            several.until(several.ready, 120)
            # Not only started: a worker that is told to end before it listens just ends.
            several.until(lambda: log.read_text().count(LISTENING) == max(1, workers))
            yield several
        finally:
            left = several.workers() if process.poll() is None else []
            process.kill()
            process.wait()
            for pid in left:
                several.until(lambda pid=pid: not alive(pid), 10)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Any]:
    """Start a server on the test's folder with so many workers, as a context manager."""

    def make(workers: int = 2, **sections: Any) -> Any:
        return started(tmp_path, workers, **sections)

    return make


@pytest.fixture
def several(start, publish) -> Iterator[Several]:
    """A ready server with version 1 and two workers."""
    publish(1)
    with start(serving={"drain_seconds": 0.3}) as made:
        yield made
