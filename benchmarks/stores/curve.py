"""How rates hold from 0.1M to 20M rows, against reading given rows at random at the same size."""

import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.report import Figure
from benchmarks.stores import compare
from benchmarks.stores.compare import OURS, Case, Contender
from benchmarks.stores.workers import Round, Shape, Worker, best

SIZES = (100_000, 1_000_000, 10_000_000, 20_000_000)
LINES = {
    Case("gather", "zipf"): ("given rows, Zipf", "#8a8a8a", "-"),
    Case("gather", "uniform"): ("given rows, uniform", "#8a8a8a", "--"),
    Case("lookup", "zipf"): ("lookup, Zipf", "#0b5fa5", "-"),
    Case("lookup", "uniform"): ("lookup, uniform", "#0b5fa5", "--"),
    Case("update", "zipf"): ("update, Zipf", "#c0561a", "-"),
    Case("update", "uniform"): ("update, uniform", "#c0561a", "--"),
}
"""Solid and dashed: Zipf's law, and uniform with a tenth of the keys absent."""


@dataclass(frozen=True)
class Point:
    """The rounds of one case at one size."""

    rows: int
    case: Case
    rounds: Sequence[Round]


def figures(shape: Shape, runs: int, batches: int) -> Generator[Figure, None, list[Point]]:
    """Rates at each size and the share of the limit reached; returns what the picture needs."""
    points = []
    for rows in SIZES:
        with ExitStack() as stack:
            worker = Worker(sys.executable, "benchmarks.stores.ours", replace(shape, keys=rows))
            entered = compare.entered(stack, [Contender(OURS, worker, list(LINES))])
            rounds = compare.take_turns(entered, runs, batches)
        for (_, case), taken in rounds.items():
            points.append(Point(rows, case, taken))
            limit = rounds[OURS, Case("gather", case.kind)]
            share = best(taken).rate / best(limit).rate
            yield Figure.of(
                f"store.curve.{case.measure}_keys_per_second", "keys/s",
                [one.rate for one in taken], of=case.kind, rows=rows,
                share_of_given_rows=round(share, 3), dim=shape.dim, threads=shape.threads,
            )  # fmt: skip
    return points


def draw(path: Path, points: Sequence[Point]) -> None:
    """Best of all turns by size, both axes logarithmic; needs matplotlib."""
    try:
        from matplotlib.figure import Figure as Picture
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("matplotlib is missing: pip install 'freshet[plots]'") from error
    picture = Picture(figsize=(8, 4.6), layout="constrained")
    axes: Any = picture.add_subplot()
    for case, (name, colour, dashes) in LINES.items():
        mine = [point for point in points if point.case == case]
        rows = [point.rows for point in mine]
        rates = [best(point.rounds).rate / 1e6 for point in mine]
        axes.plot(rows, rates, dashes, color=colour, marker="o", markersize=4, label=name)
    axes.set_xscale("log")
    axes.set_xticks(sorted({point.rows for point in points}))
    axes.xaxis.set_major_formatter(lambda rows, _: f"{rows / 1e6:g}M")
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rows in the table")
    axes.set_ylabel("million keys a second, best turn")
    axes.set_title("The store by size, beside reading given rows", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    picture.savefig(path, dpi=160)
