"""Commits version 2 in a child process and kills it, by SIGKILL, after each of its steps in turn.

python killed_commit.py ROOT writes one directory per step under ROOT and prints their names with
the step, as JSON lines. Run by test_killed.py; no test itself.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from service.versions import Checkpoint, Manifest, VersionDirectory
from service.versions.storage import Steps


def commit(root: Path, number: int, steps: Steps) -> None:
    """One version: a checkpoint, a new history segment, the parent's segments shared."""
    directory = VersionDirectory(root, steps)
    with directory.begin(number) as draft:
        Checkpoint({"weights": torch.full((100,), float(number))}, {}, number).write(draft)
        draft.write(f"histories/{number}", {"item": torch.arange(number)})
        if number > 1:
            parent = directory.manifest(number - 1)
            draft.share(parent.histories[0], parent.files[parent.histories[0]])
        draft.commit(
            Manifest(
                number=number,
                parent=number - 1 or None,
                created_at=0.0,
                watermark_ms=0,
                block=number,
                offsets={"actions": {"0": 100 * number}},
                topic_ids={},
            )
        )


def killed_after(root: Path, place: int) -> bool:
    """Run commit 2 in a child that kills itself after step `place`; whether it was killed."""
    child = os.fork()
    if child == 0:
        seen = iter(range(place + 1))

        def step(_: str) -> None:
            if next(seen) == place:
                os.kill(os.getpid(), signal.SIGKILL)

        commit(root, 2, step)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def main(root: Path) -> None:
    """Every step in turn."""
    steps: list[str] = []
    commit(root / "whole", 1, lambda step: None)
    commit(root / "whole", 2, steps.append)
    for place, step in enumerate(steps):
        commit(root / str(place), 1, lambda step: None)
        killed = killed_after(root / str(place), place)
        print(json.dumps({"step": step, "root": str(root / str(place)), "killed": killed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
