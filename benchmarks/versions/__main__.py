"""What a version costs, on a table of a million rows (--quick: 100,000) of which 1 % are touched.

Sizes are those of the files; waits are measured on a real trainer and a real server process; the
training steps and the pause of `apply` in this process. Every version goes through the gate.

    python -m benchmarks.versions --json --data globo-news-clicks.csv.gz > versions.jsonl
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.report import CheckFailed, Figure
from benchmarks.versions import world as worlds
from benchmarks.versions.pauses import NOBODY, apply_pause
from benchmarks.versions.precision import int8_loss
from benchmarks.versions.sizes import delta_bytes, snapshot_bytes
from benchmarks.versions.steps import step_p99
from benchmarks.versions.waits import waits
from benchmarks.versions.world import World
from service.commands.version_check import Verification
from service.model.ranker import ITEM_SLOT, Ranker
from service.versions import Snapshot

ROWS, QUICK_ROWS, CHECKED_ROWS = 1_000_000, 100_000, 5_000
PARTS = ("sizes", "waits", "pauses", "steps", "precision")


def main() -> int:
    """The command `python -m benchmarks.versions`."""
    options = report.parser(__doc__)
    options.add_argument("--rows", type=int, help="item rows (1,000,000; quick: 100,000)")
    options.add_argument("--runs", type=int, help="of every wait (5; quick: 1)")
    options.add_argument("--data", type=Path, help="actions for int8_loss_change (a simulation)")
    options.add_argument("--only", choices=PARTS, action="append", help="leave the others out")
    torch.set_num_threads(1)
    return report.run(options, check, measure)


def check(_: argparse.Namespace) -> None:
    """Deltas hold what was touched and nothing else; a server that follows them ranks like one
    that reads the whole; every file is what its manifest says."""
    with worlds.made(CHECKED_ROWS) as world:
        ranker = Ranker(Snapshot.read(world.versions, world.number))
        for _ in range(3):
            world.click()
            world.train()
            manifest = world.newest
            delta = Snapshot.read_file(world.versions, manifest, manifest.snapshot[-1])
            _check_touched(world, delta)
            ranker.apply(ranker.prepare(delta))
            whole = Ranker(Snapshot.read(world.versions, manifest.number))
            if not torch.equal(*(r.next_items(NOBODY, 1) for r in (ranker, whole))):
                raise CheckFailed(f"version {manifest.number} ranks otherwise by its delta")
        found = Verification.of(world.versions, world.versions.numbers())
        if not found.sound:
            raise CheckFailed(f"versions are damaged: {found.to_json()}")


def _check_touched(world: World, delta: Snapshot) -> None:
    ids = delta.slots[ITEM_SLOT].ids
    found = set() if ids is None else {ids[row] for row in range(1, len(delta.slots[ITEM_SLOT]))}
    if delta.parent is None or found != set(world.touched):
        raise CheckFailed(
            f"version {delta.number}, after {delta.parent}, holds {len(found)} rows where "
            f"{len(world.touched)} were touched"
        )


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """Every figure of one folder, then what int8 does to the loss."""
    rows = options.rows or (QUICK_ROWS if options.quick else ROWS)
    runs = options.runs or (1 if options.quick else 5)
    chosen = options.only or PARTS
    with worlds.made(rows) as world:
        world.click()
        world.train()
        if "sizes" in chosen:
            yield from delta_bytes(world)
            yield from snapshot_bytes(world)
        if "waits" in chosen:
            yield from waits(world, runs)
        if "pauses" in chosen:
            yield from apply_pause(world)
        if "steps" in chosen:
            yield from step_p99(world, 15_000 if options.quick else 60_000, min(runs, 3))
    if "precision" in chosen:
        sizes = (6_000, 500, 2) if options.quick else (100_000, 4_000, 5)
        yield from int8_loss(options.data, *sizes)


if __name__ == "__main__":
    raise SystemExit(main())
