"""A whole Freshet to measure: a made-up product's log, what a trainer learned of it, a server.

Every watched user has exactly `HISTORY` events, so each ranking sees a full window; the items of
other users' events keep a trainer busy without changing a watched history.
"""

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.feed import Feed
from benchmarks.report import CheckFailed, progress
from benchmarks.visits import ITEMS, append, visit
from service.actions import Action, Impression
from service.client import Client
from service.commands.folder import DataFolder
from service.commands.processes import free_port
from service.commands.settings_file import write_settings
from service.streams import LocalStream

HISTORY = 256
WATCHED = [f"watched-{number}" for number in range(64)]
SETTINGS = {
    "model": {"dim": 64, "layers": 2, "window": HISTORY},
    "actions": {"types": {"click": {"positive": True, "weight": 1.0}}},
}
READY_SECONDS = 120.0
SETTLE_SECONDS = 5.0
"""Time for a trainer to start before something is measured beside it."""


@dataclass
class Live:
    """A data folder whose server runs."""

    folder: DataFolder
    port: int
    pid: int = 0
    """Of the server's process."""

    @property
    def url(self) -> str:
        """Where the server answers."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def learned() -> Iterator[DataFolder]:
    """A temporary folder with a log that a trainer has learned to its end."""
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as root:
        folder = DataFolder(Path(root))
        write_settings(folder.settings, SETTINGS)
        with closing(LocalStream(folder.stream)) as stream:
            append(stream, _events(random.Random(0)))
        folder.end.touch()
        progress("training")
        with folder.trainer(free_port(), "--until-end") as trainer:
            while trainer.running:
                time.sleep(0.1)
        yield folder


@contextmanager
def served(folder: DataFolder, **serving: Any) -> Iterator[Live]:
    """The folder with a server that is ready. `serving`: settings of that section."""
    write_settings(folder.settings, {**SETTINGS, "serving": serving})
    live = Live(folder, free_port())
    with folder.server(live.port) as server:
        deadline = time.monotonic() + READY_SECONDS
        with client(live) as asking:
            while server.running and not asking.ready():
                if time.monotonic() > deadline:
                    raise CheckFailed(f"the server was not ready in time; see {server.log}")
                time.sleep(0.05)
        live.pid = server.pid
        yield live


@contextmanager
def training(
    folder: DataFolder, actions_per_second: int, publish_seconds: float = 2.0
) -> Iterator[None]:
    """A trainer that learns beside whatever the block does, fed by a process of its own."""
    folder.end.unlink(missing_ok=True)
    write_settings(folder.settings, {**SETTINGS, "trainer": {"publish_seconds": publish_seconds}})
    with folder.trainer(free_port()), Feed(folder.stream, actions_per_second):
        yield


def _events(rng: random.Random) -> list[Action | Impression]:
    """`HISTORY` visits of every watched user in the last hours, taking turns."""
    count = HISTORY * len(WATCHED)
    start = time.time() - count
    return [
        record
        for turn in range(count)
        for record in visit(rng, WATCHED[turn % len(WATCHED)], start + turn)
    ]


def candidates(rng: random.Random, count: int) -> list[str]:
    """Random items to rank."""
    return rng.sample(ITEMS, count)


def client(live: Live) -> Client:
    """A client of the server."""
    return Client(live.url)
