"""`freshet demo`: a product whose tastes turn, and a Freshet beside it that keeps up."""

import contextlib
import secrets
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from service.client import Client
from service.commands.feed import World, WorldSettings
from service.commands.folder import DataFolder
from service.commands.processes import (
    Child,
    ProcessError,
    free_port,
)
from service.commands.settings_file import write_settings
from service.commands.simulation import Change, Simulation
from service.commands.summary import Summary
from service.commands.view import DemoView
from service.settings import Settings
from service.streams import open_stream
from service.streams.kafka.settings import kafka_settings

ACTIONS_PER_SECOND = 2_000
CHANGE_EVERY_SECONDS = 15.0
LOOK_SECONDS = 0.5
RATE_LOOKS = 20
SETTINGS: dict[str, dict[str, Any]] = {
    "actions": {"types": {"click": {"positive": True, "weight": 1.0}}},
    "model": {"dim": 32, "qk_width": 16, "v_width": 16, "window": 32, "priors": [5.0, 20.0, 300.0]},
    "histories": {"capacity": 64},
    "trainer": {"block_ms": 200, "join_seconds": 2.0, "publish_seconds": 2.0},
    "serving": {"log_impressions": False},  # the feed says itself what was shown
}
"""What the demo sets: a model that two cores train and serve side by side."""


def demo_settings() -> dict[str, dict[str, Any]]:
    """What the demo sets. Where the environment names Kafka, its actions go to topics of their own,
    never to those that a product's servers use."""
    if kafka_settings(Settings()) is None:
        return SETTINGS
    prefix = f"freshet-demo-{secrets.token_hex(4)}."
    return {**SETTINGS, "kafka": {"prefix": prefix, "partitions": 1}}


@dataclass(frozen=True)
class Patience:
    """How long a demo waits for the server, and then watches until it has enough to say."""

    ready_seconds: float = 240.0
    least_seconds: float = 15.0
    most_seconds: float = 35.0


@contextlib.contextmanager
def demo_folder(data: Path | None) -> Iterator[DataFolder]:
    """`data`, which must not hold a stream, or a temporary folder that is removed at the end."""
    if data is not None:
        folder = DataFolder(data)
        folder.require_no_stream("choose another --data, or none for a temporary folder")
        yield folder
        return
    root = Path(tempfile.mkdtemp(prefix="freshet-demo-"))
    try:
        yield DataFolder(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def run_demo(
    folder: DataFolder, view: DemoView, seed: int, port: int, once: bool, patience: Patience
) -> Summary:
    """Run trainer, server and feed until there is enough to say; not `once`: until interrupted.

    1. write the settings; 2. start trainer and server; 3. start the feed; 4. when the server is
    ready, begin to show lists; 5. watch, and show one user's ranking before and after an action;
    6. stop feed, server and trainer. Raises ProcessError when one of them fails.
    """
    settings = demo_settings()
    write_settings(folder.settings, settings)
    world, server_port = World(WorldSettings(seed=seed)), free_port(port)
    with (
        folder.trainer(free_port()) as trainer,
        folder.server(server_port) as server,
        closing(open_stream(Settings(settings), folder.root)) as stream,
        Client(f"http://127.0.0.1:{server_port}", patience_seconds=0.0) as client,
        closing(Simulation(world, stream, client, ACTIONS_PER_SECOND)) as simulation,
    ):
        simulation.start()
        watch = Watch(trainer, server, simulation, view)
        watch.until_ready(client, patience.ready_seconds)
        simulation.serving.set()
        return watch.once(patience) if once else watch.on()


class Watch:
    """Looks at the processes twice a second and shows what it sees."""

    def __init__(
        self, trainer: Child, server: Child, simulation: Simulation, view: DemoView
    ) -> None:
        self._trainer, self._server = trainer, server
        self._simulation, self._view = simulation, view
        self._started = time.monotonic()
        self._trained: deque[tuple[float, float]] = deque([(self._started, 0.0)], RATE_LOOKS)
        self._change: Change | None = None

    def until_ready(self, client: Client, patience_seconds: float) -> None:
        """Return when the server answers. Raises ProcessError when that takes too long."""
        while not client.ready():
            self._look()
            if time.monotonic() - self._started > patience_seconds:
                raise ProcessError(
                    f"no version was served within {patience_seconds:.0f} s; "
                    f"see {self._trainer.log} and {self._server.log}"
                )

    def once(self, patience: Patience) -> Summary:
        """Watch until there is enough to say, show the change, and say it."""
        began = time.monotonic()
        while True:
            summary, watched = self._look(), time.monotonic() - began
            enough = watched > patience.least_seconds and summary.convincing
            if enough or watched > patience.most_seconds:
                self._show_change()
                return self._look()

    def on(self) -> NoReturn:
        """Watch until interrupted; show a change every now and then."""
        shown = time.monotonic()
        while True:
            self._look()
            if time.monotonic() - shown > CHANGE_EVERY_SECONDS:
                self._show_change()
                shown = time.monotonic()

    def _show_change(self) -> None:
        self._change = self._simulation.show_change()

    def _look(self) -> Summary:
        time.sleep(LOOK_SECONDS)
        self._simulation.check()
        for child in (self._trainer, self._server):
            child.look()
            if not child.running:
                raise ProcessError(f"the {child.module} process ended; see {child.log}")
        trained = sum(self._trainer.readings.by_label("actions_total", "outcome").values())
        self._trained.append((time.monotonic(), trained))
        summary = self._summary()
        self._view.show(summary)
        return summary

    def _summary(self) -> Summary:
        (first, before), (last, now) = self._trained[0], self._trained[-1]
        return Summary.of(
            self._trainer.readings,
            self._server.readings,
            self._simulation,
            seconds=time.monotonic() - self._started,
            actions_per_second=(now - before) / max(last - first, LOOK_SECONDS),
            change=self._change,
            docs_url=f"http://127.0.0.1:{self._server.port}/docs",
        )
