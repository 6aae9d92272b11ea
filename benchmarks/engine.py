"""What one ranking costs the engine: histories kept or read anew, by precision and shape.

No HTTP, no queue: requests of 512 candidates for users with full histories, on one thread, by
versions with int8 rows. `anew` reads the history and then asks, as for a user who was not asked for
since the last new weights; `kept` asks only. Measurements of one shape take turns.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks import report
from benchmarks.report import CheckFailed, Figure, interleaved
from kernels.int8_linear import int8_linear
from service.action_types import ActionTypes
from service.actions import RESERVED_KEY
from service.histories.local import Histories
from service.model.network import Network
from service.model.precision import PRECISIONS
from service.model.ranker import COUNTS, COUNTS_ORIGIN, ITEM_SLOT, Ranker, Request, described
from service.model.readings import Readings
from service.model.settings import ModelSettings
from service.versions import ChannelCodes, SlotRows, Snapshot

ITEMS = 20_000
CANDIDATES = 512
NOW_MS = 1_732_096_800_000
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Shape:
    """Of a model; its window is full."""

    window: int
    dim: int
    layers: int

    @property
    def settings(self) -> ModelSettings:
        """Heads of width 32."""
        width = self.dim // 2
        return ModelSettings(
            dim=self.dim, layers=self.layers, window=self.window, qk_width=width, v_width=width
        )


SMALL, LONG, WIDE = Shape(256, 64, 2), Shape(2048, 64, 2), Shape(256, 256, 4)


class Bench:
    """One version of a shape, whose every weight is random, in one precision."""

    def __init__(self, shape: Shape, dense: str, rows: str = "int8") -> None:
        self.window, self.make = shape.window, np.random.default_rng(0)
        self.ranker = Ranker(_snapshot(shape.settings, rows), Readings(2**30), dense)
        self.keys = self.ranker.items.live_keys()
        self.history = self._history()

    def _history(self) -> Histories:
        count = self.window
        return Histories(
            np.array([0, count]), self.make.choice(self.keys, count), np.zeros(count, np.int64),
            NOW_MS - 60_000 * np.arange(count, 0, -1), np.array([count]),
        )  # fmt: skip

    def ask(self, kept: bool) -> torch.Tensor:
        """Scores of some candidates."""
        keys_C = self.make.choice(self.keys, CANDIDATES, replace=False)
        request = Request(self.history, keys_C, NOW_MS, 1 if kept else None)
        return self.ranker.rank_all([request])[0].score_C

    def seconds(self, kept: bool, requests: int) -> float:
        """Least time of some requests."""
        least = float("inf")
        for _ in range(requests):
            began = time.perf_counter()
            self.ask(kept)
            least = min(least, time.perf_counter() - began)
        return least


def _snapshot(settings: ModelSettings, rows: str) -> Snapshot:
    torch.manual_seed(0)
    network = Network(settings, len(ActionTypes().types))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.05)
    keys = torch.tensor([RESERVED_KEY, *range(1, ITEMS)])
    slot = SlotRows(keys, torch.randn(ITEMS, settings.dim), {COUNTS: torch.rand(ITEMS, 3)})
    told = {**described(settings, ActionTypes(), True), COUNTS_ORIGIN: NOW_MS}
    whole = Snapshot(1, told, dict(network.state_dict()), {ITEM_SLOT: slot}, at_ms=NOW_MS)
    return whole.quantized({f"slots/{ITEM_SLOT}": rows})


def check(_: argparse.Namespace) -> None:
    """Scores by what is kept, also when it was extended, are those of a history read anew; products
    of integers are those of the reference."""
    torch.set_num_threads(1)
    _check_kept(Bench(SMALL, "fp32"))
    _check_integers()


def _check_kept(bench: Bench) -> None:
    whole, keys_C = bench.history, bench.keys[:CANDIDATES]
    anew = bench.ranker.rank(whole, keys_C, NOW_MS).score_C
    first = Histories(
        np.array([0, 200]), whole.item_T[:200], whole.action_T[:200], whole.at_ms_T[:200],
        np.array([200]),
    )  # fmt: skip
    for history in (first, whole, whole):
        request = Request(history, keys_C, NOW_MS, 1)
        found = bench.ranker.rank_all([request])[0].score_C
    if not torch.allclose(found, anew, rtol=TOLERANCE, atol=TOLERANCE):
        raise CheckFailed(f"kept scores are off by up to {(found - anew).abs().max():.2g}")


def _check_integers() -> None:
    for channels, inputs in ((256, 64), (1024, 256)):
        codes = ChannelCodes.encode(torch.randn(channels, inputs))
        x_CI, bias_O = torch.randn(CANDIDATES, inputs), torch.randn(channels)
        given = x_CI, codes.codes_OI, codes.scale_O, bias_O
        if not torch.equal(int8_linear(*given), int8_linear(*given, backend="reference")):
            raise CheckFailed(f"products of {inputs} by {channels} integers are not exact")


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """Small and long histories, narrow and wide models."""
    torch.set_num_threads(1)
    runs, requests = (3, 5) if options.quick else (9, 12)
    medians: dict[tuple[Shape, str, bool], float] = {}
    for shape in (SMALL, LONG, WIDE):
        benches = {dense: Bench(shape, dense) for dense in PRECISIONS}
        yield from _differences(shape, benches)
        measures = {
            f"{dense} {'kept' if kept else 'anew'}": (
                lambda bench=bench, kept=kept: bench.seconds(kept, requests)
            )
            for dense, bench in benches.items()
            for kept in (True, False)
        }
        for name, values in interleaved(runs, measures).items():
            dense, how = name.split()
            figure = Figure.of(
                "engine.ranking_seconds", "s", values, history=shape.window, dim=shape.dim,
                layers=shape.layers, candidates=CANDIDATES, dense=dense, reading=how,
            )  # fmt: skip
            medians[shape, dense, how == "kept"] = figure.value
            yield figure
    yield from _ratios(medians)


def _differences(shape: Shape, benches: dict[str, Bench]) -> Iterator[Figure]:
    """Of each lower precision the largest difference between scores of the same request, by the
    largest score."""
    scores = {dense: bench.ask(kept=False) for dense, bench in benches.items()}
    full = scores.pop("fp32")
    settings = {"history": shape.window, "dim": shape.dim, "layers": shape.layers}
    for dense, found in scores.items():
        largest = float((found - full).abs().max() / full.abs().max())
        yield Figure.of(f"engine.{dense}_difference", "", [largest], **settings)


def _ratios(medians: dict[tuple[Shape, str, bool], float]) -> Iterator[Figure]:
    """What is wanted of them, from the medians above."""
    kept, anew = medians[LONG, "bf16", True], medians[LONG, "bf16", False]
    best = min(medians[WIDE, dense, True] for dense in PRECISIONS)
    for name, value in (
        ("long_over_short_kept_bf16", kept / medians[SMALL, "bf16", True]),
        ("anew_over_kept_long_bf16", anew / kept),
        ("wide_fp32_over_best", medians[WIDE, "fp32", True] / best),
    ):
        yield Figure.of(f"engine.{name}_ratio", "", [value])


if __name__ == "__main__":
    raise SystemExit(report.run(report.parser(__doc__), check, measure))
