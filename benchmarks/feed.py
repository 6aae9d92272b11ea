"""Appends visits of unwatched users at a steady rate until it is stopped.

A process of its own, so that what is measured beside it is not slowed down by making events.
"""

import random
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import TracebackType

from benchmarks.visits import append, visit
from service.streams import LocalStream

USERS = 5_000
TICK_SECONDS = 0.05
MOST_SECONDS = 600.0
"""It ends by itself after this long, whatever became of whoever started it."""


class Feed:
    """The feed as a child process, for the length of a block."""

    def __init__(self, stream: Path, actions_per_second: int) -> None:
        self._command = [sys.executable, "-m", __name__, str(stream), str(actions_per_second)]

    def __enter__(self) -> "Feed":
        self._process = subprocess.Popen(self._command)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait()


def feed(root: Path, actions_per_second: int) -> None:
    """Append until `MOST_SECONDS` are over."""
    rng, started, made = random.Random(1), time.monotonic(), 0
    with closing(LocalStream(root)) as stream:
        while (elapsed := time.monotonic() - started) < MOST_SECONDS:
            due = int(elapsed * actions_per_second) - made
            records = [
                record
                for _ in range(due)
                for record in visit(rng, f"user-{rng.randrange(USERS)}", time.time())
            ]
            append(stream, records)
            made += due
            time.sleep(TICK_SECONDS)


if __name__ == "__main__":
    feed(Path(sys.argv[1]), int(sys.argv[2]))
