"""One run: the load beside a watch, then the stream drained and everything accounted for."""

import os
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.report import progress
from benchmarks.stack import accounts
from benchmarks.stack.accounts import Kept
from benchmarks.stack.plan import Plan
from benchmarks.stack.processes import Load, Site, wait_until
from benchmarks.stack.sent import PROBE, SEEN, Column, Sent, column
from benchmarks.stack.watch import Watch
from service.errors import VersionError
from service.versions import VersionDirectory

LOOK_SECONDS = 0.5
SCRAPE_EVERY = 10
"""Looks between two scrapes of the trainer's metrics."""
DRAIN_SECONDS = 1200.0
"""A trainer that fell behind catches up; how far it was behind is a figure."""


@dataclass
class Run:
    """What came out of a run that lost nothing."""

    plan: Plan
    sent: Sent
    kept: Kept
    watch: Watch
    lag: int
    """Records that were not learned when the load ended."""
    drain_seconds: float
    versions: dict[int, list[int]]
    """The end of what each version learned, by partition of the actions."""
    lags: list[tuple[float, int]] = field(default_factory=list)
    """(monotonic time, records not learned), as the trainer says."""
    trained: int = 0
    """Versions that were published."""

    def weights_seconds(self) -> Column:
        """Of every probe: until all servers answered by a version that had learned its action."""
        probes = np.array(self.sent.probes).reshape(-1, len(PROBE))
        seen = {name: column(self.sent.seen, SEEN, name) for name in SEEN}
        waits = []
        for due, _, partition, offset in probes.tolist():
            learned = [n for n, ends in self.versions.items() if ends[int(partition)] >= offset]
            served = [
                seen["at"][(seen["server"] == server) & (seen["version"] >= min(learned))]
                for server in range(len(self.plan.ports))
                if learned
            ]
            if served and all(map(len, served)):
                waits.append(max(times.min() for times in served) - due)
        return np.array(waits)


def run(site: Site, plan: Plan, name: str) -> Run:
    """Load the stack as planned. Raises CheckFailed if anything was lost or counted twice."""
    begun, before = accounts.ends(site.stream), learned(site)
    versions: dict[int, list[int]] = {}
    lags: list[tuple[float, int]] = []
    with site.load(plan, name) as load, Watch(_pids(site, load)) as watch:
        looks = 0
        while load.running:
            site.look()
            note_versions(site, versions)
            if looks % SCRAPE_EVERY == 0:
                lags.append((time.monotonic(), site.lag))
            looks += 1
            time.sleep(LOOK_SECONDS)
    ended, lag = time.monotonic(), site.lag
    progress(f"the load has ended; {lag:,} records are not learned yet")
    wait_until(lambda: site.drained, site, DRAIN_SECONDS)
    seconds = time.monotonic() - ended
    sent = load.sent
    kept = accounts.kept(site.stream, begun, sent)
    accounts.check_kept(kept, sent)
    accounts.check_learned(kept, before, learned(site))
    return Run(plan, sent, kept, watch, lag, seconds, versions, lags, len(versions))


def learned(site: Site) -> dict[str, Any]:
    """The trainer's counters as of the newest version."""
    manifest = site.folder.newest_manifest()
    return dict(manifest["counters"]) if manifest else {}


def _pids(site: Site, load: Load) -> dict[str, int]:
    return {**site.pids, "load": load.pid, "observer": os.getpid()}


def note_versions(site: Site, versions: dict[int, list[int]]) -> None:
    """Remember how far every new version has learned: old ones are pruned while a run lasts."""
    directory = VersionDirectory(site.folder.root / "versions")
    for number in directory.numbers():
        if number > max(versions, default=0):
            try:
                offsets = directory.manifest(number).next_offsets()["actions"]
            except VersionError:
                continue  # pruned meanwhile
            versions[number] = [offsets[p] for p in sorted(offsets)]
