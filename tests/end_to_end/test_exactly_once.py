"""Real trainer processes, killed at any moment: every action is trained once, bit for bit."""

import json
import math
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from service.commands.processes import ROOT, environment
from service.commands.settings_file import write_settings
from service.metrics import Readings
from tests.trainer.workshop import Told, Workshop, settings, told

SECTIONS = settings(
    store={"item": {"ttl_seconds": 600}},
    trainer={"publish_seconds": 30, "sweep_rows": 20},
)
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
        (self.data / "stream" / "END").touch()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Run Python on some arguments in a process of its own."""
        with (self.data / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", *arguments], env=environment(), cwd=ROOT,
                stdout=log, stderr=log,
            )  # fmt: skip

    def trainer(self, *more: str) -> subprocess.Popen[bytes]:
        file = self.data / "settings.toml"
        write_settings(file, self.workshop.sections)
        return self.start("-m", "trainer", "--data", str(self.data), "--settings", str(file), *more)

    def finish(self) -> dict[str, Any]:
        """Train to the end; the final counts."""
        process = self.trainer("--until-end")
        assert process.wait(DEADLINE_SECONDS) == 0, (self.data / "log").read_text()[-3000:]
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


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(Workshop(tmp_path, SECTIONS))


def uninterrupted(story: Told, root: Path) -> Site:
    site = Site(Workshop(root, SECTIONS))
    root.mkdir(exist_ok=True)
    site.told(story)
    check_counts(site.finish(), story)
    return site


def test_killed_trainers_train_every_action_once_and_bit_for_bit(
    site: Site, tmp_path: Path
) -> None:
    story = told(4000, users=200, items=300, described=True)
    whole = uninterrupted(story, tmp_path / "whole")
    site.told(story)
    assert site.killed_at_random(kills=3, versions=whole.newest(), seed=0) >= 2
    check_counts(site.finish(), story)
    assert site.workshop.digest() == whole.workshop.digest()


def test_a_producer_that_is_still_appending_changes_nothing(site: Site, tmp_path: Path) -> None:
    story = told(2000, seed=1, users=100, items=200)
    whole = uninterrupted(story, tmp_path / "whole")
    file = site.data / "story"
    file.write_bytes(msgspec.msgpack.encode(story.payloads))
    producer = site.start(str(Path(__file__).with_name("producer.py")), str(site.data), str(file))
    with killed_at_the_end(producer):
        site.killed_at_random(kills=2, versions=whole.newest(), seed=1)
        check_counts(site.finish(), story)
        assert producer.wait() == 0
    assert site.workshop.digest() == whole.workshop.digest()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
def test_many_kills_under_a_live_producer(site: Site, tmp_path: Path, seed: int) -> None:
    story = told(20_000, seed=seed, users=500, items=800)
    whole = uninterrupted(story, tmp_path / "whole")
    file = site.data / "story"
    file.write_bytes(msgspec.msgpack.encode(story.payloads))
    producer = site.start(str(Path(__file__).with_name("producer.py")), str(site.data), str(file))
    with killed_at_the_end(producer):
        assert site.killed_at_random(kills=25, versions=whole.newest(), seed=seed) >= 20
        check_counts(site.finish(), story)
    assert site.workshop.digest() == whole.workshop.digest()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def test_sigterm_publishes_what_was_trained_and_loses_nothing(site: Site) -> None:
    """A live trainer; its metrics say how far it is."""
    trainer = {**SECTIONS["trainer"], "publish_clock": "wall", "publish_seconds": 0.05}
    site.workshop.sections = SECTIONS | {"trainer": trainer}
    story, port = told(2000, seed=2), free_port()
    site.workshop.tell(story)
    process = site.trainer("--metrics-port", str(port))
    with killed_at_the_end(process):
        while readings(port).get("version") < 1:
            assert process.poll() is None, (site.data / "log").read_text()[-3000:]
            time.sleep(0.02)
        assert readings(port).get("histories_users") > 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0
    report = json.loads((site.data / "trainer.json").read_text())
    manifest = site.workshop.versions.manifest(site.newest())
    assert manifest.block == report["block"]
    assert manifest.counters["records"] == report["records"] > 0
    (site.data / "stream" / "END").touch()
    check_counts(site.finish(), story)


def readings(port: int) -> Readings:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return Readings(answer.read().decode())
    except OSError:
        return Readings("")
