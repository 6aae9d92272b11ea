"""Trainer and server as child processes: started, watched, stopped, and never left behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self

import service
from service.errors import FreshetError
from service.metrics import Readings

ROOT = Path(service.__file__).resolve().parents[1]
GUARD = Path(__file__).with_name("guard.py")
KEEP_MAPPED = "2000000000"
INTERRUPTED = 130
"""Exit status after Ctrl-C or SIGTERM: 128 + SIGINT, as shells report it."""


class ProcessError(FreshetError):
    """A trainer or server ended by itself, or did not become ready."""


def environment() -> dict[str, str]:
    """This process's environment plus what keeps torch fast beside other processes.

    One OpenMP thread unless a process asks torch for more (`trainer.threads`); threads sleep while
    they wait, for spinning ones starve a neighbour on the same cores; malloc keeps large blocks
    instead of returning and faulting them in at every operation. What the user has set stands.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    defaults = {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "MALLOC_MMAP_THRESHOLD_": KEEP_MAPPED,
        "MALLOC_TRIM_THRESHOLD_": KEEP_MAPPED,
        "PYTHONUNBUFFERED": "1",
    }
    return {**defaults, **os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def become(module: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by `python -m MODULE ARGUMENTS`."""
    command = [sys.executable, "-P", "-m", module, *arguments]
    os.execve(sys.executable, command, environment())


class Child:
    """`python -m MODULE ARGUMENTS`, its output appended to a log file: runs while it is entered.

    Its session is its own: Ctrl-C in the terminal reaches the parent alone, which then stops its
    children in order. Enter it in the main thread: the kernel ends it with the thread that started
    it. `port` is where it serves `/metrics`; `readings` what `look` last found there.
    """

    def __init__(self, module: str, arguments: Sequence[str], log: Path, port: int) -> None:
        self.module, self.log, self.port = module, log, port
        self.readings = Readings("")
        self._arguments = arguments

    def __enter__(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        guard = [sys.executable, "-P", str(GUARD), str(os.getpid())]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*guard, self.module, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(),
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet. Raises ProcessError when it ended with a failure."""
        status = self._process.poll()
        if status:
            raise ProcessError(
                f"the {self.module} process ended with status {status}; the end of its log "
                f"{self.log}:\n{self._last_lines()}"
            )
        return status is None

    def look(self) -> Readings:
        """Scrape its metrics, if they are served yet. Raises ProcessError when it failed."""
        if self.running:
            self.readings = read_metrics(self.port) or self.readings
        return self.readings

    def stop(self, grace_seconds: float = 10.0) -> int:
        """SIGTERM, then SIGKILL after the grace period. Returns the exit status."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(grace_seconds)
        except BaseException as error:
            self._process.kill()
            status = self._process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                return status
            raise

    def _last_lines(self, count: int = 15) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-count:]) or "  (empty)"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP. A class of its own: a plain KeyboardInterrupt that passes through
    a string being executed (as some imports do) makes CPython end with SIGINT, handled or not."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP raise Interrupted inside the block, so that all clean up."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, _interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted


def free_port(wanted: int | None = None) -> int:
    """`wanted` if nothing listens there, else a free port that the system picks."""
    for port in (wanted or 0, 0):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return int(listener.getsockname()[1])
    raise ProcessError("no free port on 127.0.0.1; close something that listens there")


def read_metrics(port: int, timeout_seconds: float = 2.0) -> Readings | None:
    """One scrape of `http://127.0.0.1:PORT/metrics`; None while nothing answers there."""
    try:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=timeout_seconds) as answer:
            return Readings(answer.read().decode())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None
