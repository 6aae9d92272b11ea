"""A whole Freshet to measure: a made-up product's log, what a trainer learned of it, a server.

Every watched user has exactly `HISTORY` events, so each ranking sees a full window; the items of
other users' events keep a trainer busy without changing a watched history.
"""

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.report import progress
from service.actions import Action, Id, Impression
from service.client import Client
from service.commands.folder import DataFolder
from service.commands.processes import free_port, stopping, wait_ready
from service.commands.settings_file import write_settings
from service.streams import LocalStream

HISTORY = 256
WATCHED = [f"watched-{number}" for number in range(64)]
ITEMS = [f"item-{number}" for number in range(10_000)]
SETTINGS = {
    "model": {"dim": 64, "layers": 2, "window": HISTORY},
    "actions": {"types": {"click": {"positive": True, "weight": 1.0}}},
}
SHOWN_EVERY = 4
"""One action in so many follows an impression: enough for the action head to be on."""
SHOWN_ITEMS = 5
READY_SECONDS = 120.0

_encode = msgspec.json.Encoder().encode


@dataclass
class Live:
    """A data folder whose server runs."""

    folder: DataFolder
    port: int

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
        trainer = folder.trainer(free_port(), "--until-end")
        with stopping(trainer):
            while trainer.running:
                time.sleep(0.1)
        yield folder


@contextmanager
def served(folder: DataFolder) -> Iterator[Live]:
    """The folder with a server that is ready."""
    port = free_port()
    server = folder.server(port)
    with stopping(server):
        wait_ready(port, server, READY_SECONDS)
        yield Live(folder, port)


@contextmanager
def training(folder: DataFolder, actions_per_second: int) -> Iterator[None]:
    """A trainer that learns beside whatever the block does, fed by a process of its own."""
    folder.end.unlink(missing_ok=True)
    from benchmarks.feed import Feed

    trainer = folder.trainer(free_port())
    with stopping(trainer), Feed(folder.stream, actions_per_second):
        yield


def append(stream: LocalStream, records: Sequence[Action | Impression]) -> None:
    """Append records as if they had arrived when they happened."""
    for kind, topic in ((Action, "actions"), (Impression, "impressions")):
        chosen = [record for record in records if isinstance(record, kind)]
        if chosen:
            times = [round(record.at * 1000) for record in chosen]
            stream.append(topic, 0, [_encode(record) for record in chosen], times)


def visit(rng: random.Random, user: Id, at: float) -> list[Action | Impression]:
    """One click, now and then on a list that was shown just before."""
    if rng.random() * SHOWN_EVERY >= 1:
        return [Action(user=user, item=rng.choice(ITEMS), action="click", at=at)]
    request, items = f"r-{rng.getrandbits(48):x}", rng.sample(ITEMS, SHOWN_ITEMS)
    shown = Impression(request=request, user=user, at=at - 1, items=list(items))
    click = Action(user=user, item=items[0], action="click", at=at, request=request)
    return [shown, click]


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
