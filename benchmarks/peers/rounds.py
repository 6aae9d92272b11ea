"""One table in one process: preload, check, then one round per line of standard input.

Every line is a JSON object. The process says `{"ready": {...}}`, or `{"failed": "why"}` and ends;
then it answers `{"measure", "kind", "seed", "batches"}` with `{"seconds", "cpu_seconds"}`, the
wall time and the processor time of all its threads for these batches. Batches, and all else that
a round needs, are prepared before the clock starts, and used once.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TextIO

from benchmarks.peers.workload import Batch, Workload

Calls = Sequence[Callable[[], object]]
SHAPE = {"keys": 1_000_000, "batch": 65_536, "dim": 64, "threads": 2}


class Contender(Protocol):
    """A table that holds the workload's keys."""

    about: dict[str, Any]
    """What it is: versions, bytes."""

    def check(self) -> None:
        """Raise AssertionError unless it returns and trains the vectors it should."""
        ...

    def calls(self, measure: str, batches: list[Batch]) -> Calls:
        """What a round does, one call per batch; a KeyError names a measure that it lacks."""
        ...


def serve(
    make: Callable[[argparse.Namespace, Workload], Contender],
    parser: argparse.ArgumentParser | None = None,
) -> None:
    """Be that process until standard input ends; `options()` unless it has options of its own."""
    # Libraries print what they like; answers go where standard output went.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    chosen = (parser or options()).parse_args()
    workload = Workload(chosen.keys, chosen.batch)
    try:
        contender = make(chosen, workload)
        contender.check()
    except Exception as error:
        _answer(answers, {"failed": f"{type(error).__name__}: {error}"})
        raise
    _answer(answers, {"ready": contender.about})
    for line in sys.stdin:
        asked = json.loads(line)
        batches = workload.batches(asked["kind"], asked["seed"], asked["batches"])
        _answer(answers, timed(contender.calls(asked["measure"], batches)))


def options() -> argparse.ArgumentParser:
    """The options of every contender."""
    parser = argparse.ArgumentParser()
    for name, default in SHAPE.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser


def timed(calls: Calls) -> dict[str, float]:
    """Seconds by the clock and by the processors, for all calls together."""
    cpu, started = _cpu_seconds(), time.perf_counter()
    for call in calls:
        call()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "cpu_seconds": _cpu_seconds() - cpu}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _answer(answers: TextIO, answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=answers)
