"""`freshet demo`: a product whose tastes turn, and a Freshet beside it that keeps up."""

import contextlib
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from service.client import Client
from service.commands.feed import World, WorldSettings
from service.commands.folder import DataFolder
from service.commands.processes import (
    Child,
    ProcessError,
    free_port,
    stopping,
)
from service.commands.settings_file import write_settings
from service.commands.simulation import Change, Simulation
from service.commands.summary import Summary
from service.commands.view import DemoView
from service.streams.local import LocalStream

ACTIONS_PER_SECOND = 2_000
READY_SECONDS = 60.0
ONCE_LEAST_SECONDS, ONCE_MOST_SECONDS = 15.0, 40.0
"""How long `--once` goes on after the server is ready: until it is convincing, within these."""
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


def run_demo(folder: DataFolder, view: DemoView, seed: int, port: int, once: bool) -> Summary:
    """Run trainer, server and feed until interrupted, or with `once` until there is enough to say.

    1. write the settings; 2. start trainer and server; 3. start the feed; 4. when the server is
    ready, begin to show lists; 5. watch, and show one user's ranking before and after an action;
    6. stop feed, server and trainer. Raises ProcessError when one of them fails.
    """
    write_settings(folder.settings, SETTINGS)
    trainer, server = folder.trainer(free_port()), folder.server(free_port(port))
    world = World(WorldSettings(seed=seed))
    with (
        stopping(trainer, server),
        closing(LocalStream(folder.stream)) as stream,
        Client(f"http://127.0.0.1:{server.port}") as client,
        closing(Simulation(world, stream, client, ACTIONS_PER_SECOND)) as simulation,
    ):
        simulation.start()
        watch = Watch(trainer, server, simulation, view)
        watch.until_ready(client)
        simulation.serving.set()
        return watch.once() if once else watch.on()


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

    def until_ready(self, client: Client) -> None:
        """Return when the server answers. Raises ProcessError when that takes too long."""
        while not client.ready():
            self._look()
            if time.monotonic() - self._started > READY_SECONDS:
                raise ProcessError(
                    f"no version was served within {READY_SECONDS:.0f} s; "
                    f"see {self._trainer.log} and {self._server.log}"
                )

    def once(self) -> Summary:
        """Watch until there is enough to say, show the change, and say it."""
        began = time.monotonic()
        while True:
            summary, watched = self._look(), time.monotonic() - began
            enough = watched > ONCE_LEAST_SECONDS and summary.convincing
            if enough or watched > ONCE_MOST_SECONDS:
                self._show_change()
                return self._look()

    def on(self) -> Summary:
        """Watch until interrupted; show a change every now and then."""
        with contextlib.suppress(KeyboardInterrupt):
            shown = time.monotonic()
            while True:
                if time.monotonic() - shown > CHANGE_EVERY_SECONDS:
                    self._show_change()
                    shown = time.monotonic()
                self._look()
        return self._summary()

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
