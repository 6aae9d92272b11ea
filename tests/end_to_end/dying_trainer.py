"""Trains one stream many times, killed by SIGKILL after each step of its versions in turn.

python dying_trainer.py ROOT FIRST EVERY: kills after the steps FIRST, FIRST + EVERY, ... of all
that an uninterrupted run takes, lets another trainer finish, and prints a JSON line for each: the
step, whether the trainer was killed, and the state that both came to. The first line is the
uninterrupted run. Run by test_crash_matrix.py; no test itself.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.versions import VersionDirectory
from service.versions.storage import Steps
from tests.trainer.workshop import Workshop, settings, told

SECTIONS = settings(
    store={"item": {"ttl_seconds": 300, "min_count": 2}},
    histories={"ttl_seconds": 120},
    trainer={
        "publish_seconds": 40, "sweep_rows": 3, "base_every": 3, "dense_seconds": 90,
        "keep_versions": 2, "exploration": True,
    },
)  # fmt: skip
"""Versions of every kind: deltas and bases of both halves, with and without dense weights, merged
segments, tombstones, versions that go; and all that a state can hold."""


@dataclass
class Dying(Workshop):
    """A workshop that hears of every step of its storage."""

    steps: Steps = field(default=lambda _: None)

    @property
    def versions(self) -> VersionDirectory:
        return VersionDirectory(self.root / "versions", self.steps)


def forked(work: Callable[[], Any], result: Path) -> bool:
    """Do the work in a child, which writes what it returns; whether the child lived."""
    child = os.fork()
    if child == 0:
        try:
            result.write_text(json.dumps(work()))
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def finished(workshop: Workshop) -> dict[str, Any]:
    """Train to the end; what came of it."""
    state = workshop.train().teacher.state
    return {"digest": workshop.digest(), "counters": dict(state.counters)}


def killed_after(root: Path, place: int) -> dict[str, Any]:
    """Kill a trainer after a step, and let another one finish."""
    left = iter(range(place, -1, -1))

    def step(_: str) -> None:
        if not next(left):
            os.kill(os.getpid(), signal.SIGKILL)

    dying = Dying(root, SECTIONS, step)
    dying.tell(STORY)
    died = not forked(lambda: finished(dying), root / "killed.json")
    forked(lambda: finished(Workshop(root, SECTIONS)), root / "finished.json")
    return {"killed": died, **json.loads((root / "finished.json").read_text())}


STORY = told(700, users=25, items=150, described=True)


def main(root: Path, first: int, every: int) -> None:
    """The uninterrupted run, then one for each step."""
    steps: list[str] = []
    whole = Dying(root / "whole", SECTIONS, steps.append)
    whole.tell(STORY)
    told_all = root / "whole.json"
    assert forked(lambda: {"whole": finished(whole), "steps": steps}, told_all)
    result = json.loads(told_all.read_text())
    print(json.dumps({"step": "none", "killed": False, **result["whole"]}), flush=True)
    for place, step in list(enumerate(result["steps"]))[first::every]:
        found = killed_after(root / str(place), place)
        print(json.dumps({"step": f"{place}: {step}", **found}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
