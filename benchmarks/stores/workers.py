"""Tables in processes of their own, asked for one round at a time."""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import report
from benchmarks.report import CheckFailed
from service.commands.processes import environment

_LAST_LINES = 12


@dataclass(frozen=True)
class Shape:
    """What all tables of a run have in common."""

    keys: int
    batch: int
    dim: int
    threads: int

    @property
    def arguments(self) -> list[str]:
        """As every worker takes them."""
        return [f"--{name}={value}" for name, value in vars(self).items()]


@dataclass(frozen=True)
class Round:
    """What one round took, over all its keys."""

    keys: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Keys per second."""
        return self.keys / self.seconds

    @property
    def cpu_ns(self) -> float:
        """Nanoseconds of all processors for a key."""
        return self.cpu_seconds / self.keys * 1e9


class Worker:
    """`python -m MODULE` under the environment that `freshet` gives its own processes.

    Enter it to start it; it preloads its table and checks itself. CheckFailed, with the end of what
    it wrote to standard error, when it cannot. `about` is what it says of itself.
    """

    def __init__(self, python: Path | str, module: str, shape: Shape, *options: str) -> None:
        self._shape, self._module = shape, module
        self._command = [str(python), "-P", "-m", module, *shape.arguments, *options]
        self.about: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            text=True, env=environment(),
        )  # fmt: skip
        try:
            self.about = self._answer()["ready"]
        except CheckFailed:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._stop()

    def round(self, measure: str, kind: str, seed: int, batches: int) -> Round:
        """Let it do a measure on fresh batches; equal seeds give every worker equal keys."""
        asked = {"measure": measure, "kind": kind, "seed": seed, "batches": batches}
        assert self._process.stdin
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer = self._answer()
        keys = batches * self._shape.batch
        return Round(keys, answer["seconds"], answer["cpu_seconds"])

    def _stop(self) -> None:
        """Its standard input ends, and so does it."""
        with self._process, self._errors:
            pass

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"failed": "it ended"}
        if "failed" in answer:
            self._process.wait()
            self._errors.seek(0)
            for said in self._errors.read().splitlines()[-_LAST_LINES:]:
                report.progress(f"{self._module}: {said}")
            raise CheckFailed(f"{self._module}: {answer['failed']}")
        return answer


def peer_python(directory: Path, name: str) -> Path:
    """The interpreter of a peer's environment. CheckFailed says what makes a missing one."""
    python = directory / name / "bin" / "python"
    if not python.exists():
        raise CheckFailed(
            f"there is no environment of the peer {name} at {python.parents[1]}; "
            "make it with `make peers`, or name another folder: --peers DIRECTORY"
        )
    return python


def best(rounds: Sequence[Round]) -> Round:
    """The round with the highest rate."""
    return max(rounds, key=lambda one: one.rate)
