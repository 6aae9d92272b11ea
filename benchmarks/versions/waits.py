"""What people wait for, with real processes: a version to be visible, a start, a return."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import live
from benchmarks.report import CheckFailed, Figure, progress
from benchmarks.versions.world import World
from service.client import Client
from service.commands.processes import Child, free_port
from service.versions.manifest import manifest_name

POLL_SECONDS = 0.01
TOO_LONG_SECONDS = 120.0
CANDIDATES = 20
FEW_CLICKS = 1_000
"""In a round that a trainer learns in no time."""


def waits(world: World, runs: int) -> Iterator[Figure]:
    """Every figure of this module."""
    about = {"rows": world.rows}
    ready = [_ready(world) for _ in range(runs)]
    yield Figure.of("versions.ready_seconds", "s", ready, **about)
    with live.served(world.folder) as site, live.client(site) as client, trained(world) as trainer:
        visible = [_visible(world, client, trainer) for _ in range(runs + 1)]
        back, forth = zip(*(_rollback(world, client) for _ in range(runs)), strict=True)
    name = "versions.commit_to_visible_seconds"
    yield Figure.of(name, "s", visible[1:], **about, touched=len(world.touched))
    yield Figure.of("versions.rollback_seconds", "s", back, **about, to="an older version")
    yield Figure.of("versions.rollback_seconds", "s", forth, **about, to="the newest")
    resumed = [_resume(world) for _ in range(runs)]
    yield Figure.of("versions.resume_seconds", "s", resumed, **about, clicks=FEW_CLICKS)


@contextmanager
def trained(world: World) -> Iterator[Child]:
    """A trainer process that learns whatever is clicked, and is ready to."""
    with world.folder.trainer(free_port()) as trainer:
        _until(lambda: trainer.look().get("version") >= world.number, trainer)
        yield trainer


def _ready(world: World) -> float:
    """From starting a server to its first "ready"."""
    began = time.perf_counter()
    with live.served(world.folder):
        took = time.perf_counter() - began
    progress(f"ready after {took:.2f} s")
    return took


def _visible(world: World, client: Client, trainer: Child) -> float:
    """From the commit of a version to the first ranking that names it."""
    number = world.number
    world.click()
    _until(lambda: _answering(world, client) > number, trainer)
    took = time.time() - _committed(world, number + 1)
    progress(f"visible {took:.2f} s after the commit")
    return took


def _rollback(world: World, client: Client) -> tuple[float, float]:
    """From asking to the first ranking of another version: back by one, and forth again."""
    newest = world.number
    back = _changed(world, client, lambda: client.activate(newest - 1), newest - 1)
    forth = _changed(world, client, client.unpin, newest)
    progress(f"rolled back in {back:.2f} s, forth in {forth:.2f} s")
    return back, forth


def _changed(world: World, client: Client, decide: Callable[[], object], number: int) -> float:
    """Seconds from a decision to the first ranking of a version."""
    began = time.perf_counter()
    decide()
    _until(lambda: _answering(world, client) == number)
    return time.perf_counter() - began


def _resume(world: World) -> float:
    """From killing the trainer, with clicks waiting, to the commit of its next version."""
    with trained(world) as trainer:
        os.kill(trainer.pid, signal.SIGKILL)
        killed, number = time.time(), world.number
    world.click(FEW_CLICKS)
    with world.folder.trainer(free_port()) as trainer:
        _until(lambda: world.number > number, trainer)
    took = _committed(world, number + 1) - killed
    progress(f"next version {took:.2f} s after a kill")
    return took


def _answering(world: World, client: Client) -> int:
    """The version that a ranking names."""
    answer = client.rank("user-1", world.touched[:CANDIDATES])
    return int(answer["version"])


def _committed(world: World, number: int) -> float:
    """When a version's manifest was written, by the file system's clock."""
    return Path(world.versions.url, manifest_name(number)).stat().st_mtime


def _until(holds: Callable[[], bool], child: Child | None = None) -> None:
    """Return once it holds. Raises CheckFailed after a long time, ProcessError when the process
    that should make it true has failed."""
    deadline = time.monotonic() + TOO_LONG_SECONDS
    while not holds():
        if child is not None and not child.running:
            raise CheckFailed(f"the trainer ended; see {child.log}")
        if time.monotonic() > deadline:
            raise CheckFailed(f"nothing happened within {TOO_LONG_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
