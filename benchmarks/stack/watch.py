"""CPU time and memory of processes, second by second, as /proc tells them."""

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
EVERY_SECONDS = 1.0


class Look(NamedTuple):
    """One look at one process."""

    at: float
    """Monotonic clock."""
    cpu_seconds: float
    """Of all its threads since it started."""
    resident_bytes: int


def look(pid: int) -> Look | None:
    """A process as it is now; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return Look(time.monotonic(), (int(stat[11]) + int(stat[12])) / TICKS, pages * PAGE)


def machine_idle_seconds() -> float:
    """Seconds that all cores together had nothing to do, since the machine started."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / TICKS


class Watch:
    """Looks at some processes on a thread of its own while it is entered."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self.looks: dict[str, list[Look]] = {name: [] for name in pids}
        self.idle_cores = 0.0
        """Of the whole machine, whoever else uses it: mean over the time watched."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._began, self._idle = time.monotonic(), machine_idle_seconds()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        passed = time.monotonic() - self._began
        self.idle_cores = (machine_idle_seconds() - self._idle) / passed

    def _run(self) -> None:
        while True:
            for name, pid in self._pids.items():
                if seen := look(pid):
                    self.looks[name].append(seen)
            if self._done.wait(EVERY_SECONDS):
                return


def cores(looks: list[Look]) -> float:
    """CPU seconds per second between the first and the last look."""
    first, last = looks[0], looks[-1]
    return (last.cpu_seconds - first.cpu_seconds) / max(last.at - first.at, 1e-9)


def growth_bytes(looks: list[Look], warm_seconds: float) -> int:
    """How much memory grew, medians of the tenth after `warm_seconds` and of the last tenth."""
    warm = [one for one in looks if one.at - looks[0].at >= warm_seconds]
    tenth = max(1, len(warm) // 10)
    begin, end = (
        sorted(one.resident_bytes for one in part) for part in (warm[:tenth], warm[-tenth:])
    )
    return end[len(end) // 2] - begin[len(begin) // 2]
