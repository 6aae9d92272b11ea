"""A data directory, real processes that work on it, and ways to kill them."""

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from service.commands.processes import ROOT, environment
from service.commands.settings_file import write_settings
from tests.trainer.workshop import Told, Workshop

DEADLINE_SECONDS = 240


@dataclass
class Site:
    """A data directory and the processes that work on it."""

    workshop: Workshop

    @property
    def data(self) -> Path:
        return self.workshop.root

    def told(self, story: Told) -> None:
        """Append everything, and say that it was all."""
        self.workshop.tell(story)
        self.end()

    def end(self) -> None:
        """Say that nothing more will be appended."""
        (self.data / "stream").mkdir(exist_ok=True)
        (self.data / "stream" / "END").touch()

    @property
    def log(self) -> str:
        """What the processes have said."""
        return (self.data / "log").read_text()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Run Python on some arguments in a process of its own."""
        with (self.data / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", *arguments], env=environment(), cwd=ROOT,
                stdout=log, stderr=log,
            )  # fmt: skip

    def trainer(self, *more: str) -> subprocess.Popen[bytes]:
        return self.start("-m", "trainer", "--data", str(self.data), *self._settings(), *more)

    def producer(self, story: Told) -> subprocess.Popen[bytes]:
        """A process that appends a story little by little, and says when that was all."""
        file = self.data / "story"
        file.write_bytes(msgspec.msgpack.encode(story.payloads))
        program = str(Path(__file__).with_name("producer.py"))
        return self.start(
            program, "--data", str(self.data), "--story", str(file), *self._settings()
        )

    def _settings(self) -> list[str]:
        file = self.data / "settings.toml"
        write_settings(file, self.workshop.sections)
        return ["--settings", str(file)]

    def finish(self) -> dict[str, Any]:
        """Train to the end; the final counts."""
        process = self.trainer("--until-end")
        assert process.wait(DEADLINE_SECONDS) == 0, self.log[-3000:]
        report: dict[str, Any] = json.loads((self.data / "trainer.json").read_text())
        return report

    def newest(self) -> int:
        return self.workshop.versions.latest() or 0

    def kill_when(self, due: Callable[[], bool], delay_seconds: float) -> bool:
        """Start a trainer and kill it so long after something holds; False if it ended before."""
        process = self.trainer("--until-end")
        with killed_at_the_end(process):
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not due() and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(delay_seconds)
            process.send_signal(signal.SIGKILL)
            return process.wait() == -signal.SIGKILL

    def killed_at_random(self, kills: int, versions: int, seed: int) -> int:
        """Kill so many trainers, a quarter of them as they start; how many really died."""
        draw, died = np.random.default_rng(seed), 0
        goals = np.sort(draw.integers(1, max(2, versions * 3 // 4), kills))
        for number, goal in enumerate(goals.tolist()):
            above = self.newest() + 1 if number % 4 == 0 else max(goal, self.newest() + 1)
            until = time.monotonic() + (draw.uniform(0.2, 5) if number % 4 == 0 else math.inf)

            def due(above: int = above, until: float = until) -> bool:
                return self.newest() >= above or time.monotonic() > until

            died += self.kill_when(due, float(draw.uniform(0, 0.2)))
        return died


@contextmanager
def killed_at_the_end(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


def check_counts(report: dict[str, Any], story: Told) -> None:
    for name in ("records", "actions", "impressions", "duplicates"):
        assert report[name] == getattr(story, name)
    assert report["positives_trained"] == story.positives
    assert report["rejected_bad_json"] == story.rejected
    assert report["context_only"] == story.actions - story.duplicates - story.positives
    assert report.get("batches_skipped", 0) == 0
