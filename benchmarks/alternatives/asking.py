"""The load: the same bodies for everybody, one at a time or so many in flight."""

import asyncio
import http.client
import itertools
import json
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import live
from benchmarks.live import WATCHED
from benchmarks.report import CheckFailed
from benchmarks.stack.client import Site

CANDIDATES, SHOWN = 512, 20
IN_FLIGHT = 8
JSON = {"Content-Type": "application/json"}
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Times:
    """Of some rankings: seconds of each, seconds of all, and of processors."""

    each: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def cpu_each(self) -> float:
        """Processor seconds of a ranking."""
        return self.cpu_seconds / len(self.each)


def bodies(seed: int = 0) -> list[bytes]:
    """A ranking for every watched user, in one order for all."""
    rng = random.Random(seed)
    asked = [
        {"user": user, "items": live.candidates(rng, CANDIDATES), "n": SHOWN} for user in WATCHED
    ]
    return [json.dumps(one).encode() for one in asked]


def post(port: int, path: str, body: bytes) -> dict[str, object]:
    """The answer to one request. Raises CheckFailed for an error."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", path, body, JSON)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    if answer.status >= 300:
        raise CheckFailed(f"{path} was answered with {answer.status}: {said[:200]!r}")
    found: dict[str, object] = json.loads(said or b"{}")
    return found


def load(port: int, pids: list[int], seconds: float, in_flight: int) -> Times:
    """Rankings one after another on each of `in_flight` connections; time of the processes."""
    return asyncio.run(_load(port, pids, seconds, in_flight))


async def _load(port: int, pids: list[int], seconds: float, in_flight: int) -> Times:
    site, times, asked = Site(port), Times(), itertools.cycle(bodies())
    before, started = _cpu_seconds(pids), time.perf_counter()

    async def ask() -> None:
        while (began := time.perf_counter()) < started + seconds:
            status, _ = await site.post("/v1/rank", next(asked))
            times.each.append(time.perf_counter() - began)
            if status != 200:
                raise CheckFailed(f"a ranking was answered with {status}")

    await asyncio.gather(*(ask() for _ in range(in_flight)))
    times.seconds = time.perf_counter() - started
    times.cpu_seconds = _cpu_seconds(pids) - before
    site.close()
    return times


def _cpu_seconds(pids: list[int]) -> float:
    """What processes have had of processors, in user and kernel (man proc_pid_stat)."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS
