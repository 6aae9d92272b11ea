"""The HSTU paper's synthetic non-stationary stream: HSTU's variants beside a Transformer.

Ever more items appear along the stream; nine tenths of it are learned in order, once, the rest
tests: every item from the second of its record on is ranked among all items available. All
variants get the same records, negatives, steps and settings for a seed. Each figure is a mean over
seeds with its 95 % t-interval; differences are taken seed by seed. The protocol: docs/drift.md.

    python -m benchmarks.drift --out drift.jsonl --plot drift.png    # reduced, on two cores
    python -m benchmarks.drift --full --device cuda --jobs 1 --out full.jsonl   # published size

With --out, finished runs are kept, and an interrupted command goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import report, trials
from benchmarks.drift import picture
from benchmarks.drift.intervals import MOST_RUNS, Interval, interval
from benchmarks.drift.stream import PUBLISHED, Size, ceiling, stream
from benchmarks.drift.training import BEST, TRAINED, VARIANTS, Task, built, run
from benchmarks.report import CheckFailed, Figure

REDUCED = Size(records=20_000, items=4_000, categories=100)
QUICK = Size(records=2_000, items=4_000, categories=100)
NAMES = [f"{prefix}hr_at_{best}" for prefix in ("", "last_") for best in BEST]
PAIRS = (("hstu", "no-rab"), ("no-rab", "softmax"), ("softmax", "transformer"))
"""What rab adds, what SiLU adds, and what HSTU's layer adds: each less the next."""
SHAPES: Mapping[str, dict[str, int]] = {
    "reduced": {"dim": 32, "layers": 2, "heads": 1, "batch": 32, "negatives": 256},
    "full": {"dim": 128, "layers": 2, "heads": 2, "batch": 128, "negatives": 1024},
}
"""The paper publishes none of its own."""

Runs = Mapping[str, Sequence[trials.Result]]
"""Results of each variant, seeds rising."""


@dataclass(frozen=True)
class Plan:
    """The stream's size, as asked for, and all else that every run shares."""

    size: Size
    label: str
    shape: Mapping[str, int]
    learning_rate: float
    device: str

    @classmethod
    def of(cls, options: argparse.Namespace) -> Plan:
        """From the command line."""
        size = PUBLISHED if options.full else QUICK if options.quick else REDUCED
        size = Size(
            options.records or size.records,
            options.items or size.items,
            options.categories or size.categories,
        )
        label = "full size" if size == PUBLISHED else "reduced"
        shape = SHAPES["full" if options.full else "reduced"]
        return cls(size, label, shape, options.learning_rate, options.device)

    def task(self, variant: str, seed: int) -> Task:
        """One run."""
        return Task(
            variant, seed, **asdict(self.size), **self.shape, learning_rate=self.learning_rate,
            device=self.device,
        )  # fmt: skip

    @property
    def settings(self) -> dict[str, Any]:
        """As they stand beside every figure."""
        return {
            "size": self.label, **asdict(self.size), **self.shape,
            "learning_rate": self.learning_rate, "device": self.device,
        }  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = report.parser(__doc__)
    add = options.add_argument
    add("--full", action="store_true", help="the published size: needs a GPU")
    add("--records", type=int, metavar="N", help=f"of the stream ({REDUCED.records:,})")
    add("--items", type=int, metavar="N", help=f"of the stream ({REDUCED.items:,})")
    add("--categories", type=int, metavar="N", help=f"of the stream ({REDUCED.categories})")
    add("--seeds", type=int, default=3, help="runs of each variant (3)")
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME",
        help=f"of {', '.join(VARIANTS)}")  # fmt: skip
    add("--learning-rate", type=float, default=3e-3, help="of every variant (0.003)")
    add("--device", default="cpu")
    add("--jobs", type=int, default=2, help="runs side by side, one thread each (2)")
    add("--out", type=Path, metavar="FILE", help="keep finished runs in this file")
    add("--plot", type=Path, metavar="FILE", help="draw HR@10 and HR@50 (.png, .svg, .pdf)")
    return options


def check(options: argparse.Namespace) -> None:
    """No record draws what is not there yet, and no variant sees what it is asked for."""
    if options.seeds > MOST_RUNS:
        raise CheckFailed(f"--seeds {options.seeds}: intervals are known for {MOST_RUNS} at most")
    if Plan.of(options).size.items <= 40:
        raise CheckFailed(f"--items {options.items}: a stream needs more than 40")
    made = stream(Size(records=500, items=1_000, categories=20, length=16), seed=0)
    for r, item_L in enumerate(made.item_NL):
        if item_L.max() >= made.size.available(r):
            raise CheckFailed(f"record {r} draws item {item_L.max()}, which is not available yet")
    for variant in options.variants:
        model = built(Plan.of(options).task(variant, 0)).eval()
        item_T = torch.arange(1, 33, device=options.device)
        other_T = item_T.clone()
        other_T[[15, 31]] = 40
        offsets = torch.tensor([0, 16, 32], device=options.device)
        before, after = model(item_T, offsets), model(other_T, offsets)
        past = [*range(15), *range(16, 31)]
        if not torch.allclose(before[past], after[past], atol=1e-5):
            raise CheckFailed(f"{variant}: what follows a place changes what is said there")


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """Run what is not in the file yet; figures of every variant, differences, the ceiling."""
    plan = Plan.of(options)
    seeds = range(1 if options.quick else options.seeds)
    planned = [asdict(plan.task(variant, seed)) for seed in seeds for variant in options.variants]
    results = trials.outcomes(planned, run, options.jobs, options.out)
    runs: dict[str, list[trials.Result]] = {variant: [] for variant in options.variants}
    for task, result in zip(planned, results, strict=True):
        runs[task["variant"]].append(result)
    highest = {f"hr_at_{best}": interval(_ceilings(plan.size, seeds, best)) for best in BEST}
    for variant in runs:
        for name in NAMES:
            yield _figure(f"{variant}.{name}", interval(values(runs, variant, name)), plan)
        seconds = [float(result["seconds"]) for result in runs[variant]]
        yield Figure.of(f"drift.{variant}.train_seconds", "s", seconds, **plan.settings)
    for more, less in PAIRS:
        if more in runs and less in runs:
            for name in NAMES:
                gained = interval(_gains(runs, more, less, name))
                yield _figure(f"{more}_minus_{less}.{name}", gained, plan)
    for name, reachable in highest.items():
        yield _figure(f"ceiling.{name}", reachable, plan)
    if options.plot:
        title = f"Stream of {plan.size.records:,} records, {plan.size.items:,} items ({plan.label})"
        found = {v: {n: values(runs, v, n) for n in highest} for v in runs}
        picture.draw(options.plot, found, {n: r.mean for n, r in highest.items()}, title)


def values(runs: Runs, variant: str, name: str) -> list[float]:
    """One number of every seed's run."""
    return [float(result[name]) for result in runs[variant]]


def _gains(runs: Runs, more: str, less: str, name: str) -> list[float]:
    pairs = zip(values(runs, more, name), values(runs, less, name), strict=True)
    return [one - other for one, other in pairs]


def _ceilings(size: Size, seeds: range, best: int) -> list[float]:
    first_test = round(TRAINED * size.records)
    return [ceiling(stream(size, seed), first_test, best) for seed in seeds]


def _figure(name: str, found: Interval, plan: Plan) -> Figure:
    return Figure(
        figure=f"drift.{name}", value=found.mean, unit="1", low=found.low, high=found.high,
        runs=found.runs, settings={**plan.settings, "sd": found.deviation, "interval": "95 % t"},
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(report.run(parser(), check, measure))
