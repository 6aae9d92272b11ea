"""One section in a process of its own: `python -m benchmarks.gpu.child SECTION --lines FILE`.

FILE gets one JSON object a line, as soon as it is known: the names of all jobs, then every figure,
and how every job ended.
"""

import argparse
import dataclasses
import json
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu.sections import SECTIONS, Job


def main(arguments: list[str] | None = None) -> int:
    """Run the section's jobs one after the other, as long as there is time."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("section", choices=list(SECTIONS))
    options.add_argument("--lines", type=Path, required=True)
    options.add_argument("--seconds", type=float, required=True, help="no job starts after them")
    options.add_argument("--quick", action="store_true")
    chosen = options.parse_args(arguments)
    started = time.monotonic()
    with chosen.lines.open("w") as file:

        def tell(**line: Any) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        try:
            jobs = SECTIONS[chosen.section].jobs(chosen.quick)
        except Exception:
            tell(job="start", outcome="failed", why=traceback.format_exc())
            return 1
        return 0 if run(jobs, started + chosen.seconds, tell) else 1


def run(jobs: Iterable[Job], deadline: float, tell: Callable[..., None]) -> bool:
    """Run jobs until the deadline (monotonic seconds); whether none failed. A failure that leaves
    the device unusable ends the section."""
    jobs, well = list(jobs), True
    tell(jobs=[job.name for job in jobs])
    unusable = False
    for job in jobs:
        if unusable:
            tell(job=job.name, outcome="left out", why="the device was unusable after a failure")
            continue
        if time.monotonic() > deadline:
            tell(job=job.name, outcome="left out", why="no time was left")
            continue
        began = time.monotonic()
        try:
            for figure in job.run() or ():
                tell(figure=dataclasses.asdict(figure))
            _wait()
            tell(job=job.name, outcome="done", seconds=round(time.monotonic() - began, 2))
        except BaseException as error:
            well = False
            tell(job=job.name, outcome="failed", why=traceback.format_exc())
            if not isinstance(error, Exception):
                raise
            unusable = not _usable()
    return well


def _wait() -> None:
    """What was launched has run: an error belongs to the job that caused it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _usable() -> bool:
    """Whether the device still answers; after a fault in a kernel it does not."""
    try:
        _wait()
    except Exception:
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main())
