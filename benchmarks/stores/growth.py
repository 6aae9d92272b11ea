"""What growth costs: the longest step beyond the median one, and memory against its own account.

Every step admits 65,536 new ids for good (their second occurrence), sees as many others for the
first time, reads and trains the admitted rows, and sweeps. Beside it, in steps of the same size: a
key index alone, and vectors of memory that is written for the first time.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.report import CheckFailed, Figure, progress
from benchmarks.stores.workers import Shape
from service.commands.processes import environment

RUNS = 3
TIMES, QUICK_TIMES = 20, 2
"""To how many times the preloaded rows the table grows."""
UNITS = {
    "growth.longest_over_median_ms": "ms",
    "growth.p99_over_median_ms": "ms",
    "growth.median_ms": "ms",
    "growth.longest_cpu_over_median_ms": "ms",
    "growth.fresh_memory_longest_over_median_ms": "ms",
    "growth.fresh_memory_median_ms": "ms",
    "growth.index_alone_longest_over_median_ms": "ms",
    "growth.index_alone_median_ms": "ms",
    "memory.first_over_account": "",
    "memory.last_over_account": "",
    "bytes_per_row": "bytes",
}


def figures(shape: Shape, quick: bool) -> Iterator[Figure]:
    """Growth in fresh processes, several times over; then bytes per row.

    Once in memory that the process held ready, and once, not in a quick run, in memory as found.
    """
    first, last = shape.keys, shape.keys * (QUICK_TIMES if quick else TIMES)
    shared = {"rows_from": first, "rows_to": last, "new_per_step": shape.batch, "dim": shape.dim,
              "threads": shape.threads}  # fmt: skip
    for memory, options in {"ready": ["--ready"], "as found": []}.items():
        if quick and memory != "ready":
            break
        runs = []
        for turn in range(1 if quick else RUNS):
            progress(f"growing from {first:,} to {last:,} rows, memory {memory}, run {turn + 1}")
            runs.append(_run(shape, [f"--first={first}", f"--last={last}", *options]))
        for name, unit in UNITS.items():
            values = [run[name] for run in runs]
            more = {"worst": _worst(runs)} if name == "growth.longest_over_median_ms" else {}
            yield Figure.of(f"store.{name}", unit, values, memory=memory, **shared, **more)


def _run(shape: Shape, options: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "benchmarks.stores.growing", *shape.arguments, *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        raise CheckFailed(f"growth failed: {done.stderr.strip().splitlines()[-1]}")
    run: dict[str, Any] = json.loads(done.stdout)
    return run


def _worst(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The longest step of all runs, with its parts."""
    worst: dict[str, Any] = max((run["longest"] for run in runs), key=lambda step: step["ms"])
    return worst
