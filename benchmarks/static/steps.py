"""The time of one training step at the public code's shape, beside the public way of doing it.

32 users of at most 200 events on the file's own lengths, width 50, 2 layers: the shape for which
314 ms are known of the public code on two cores. Ours learns from one shared set of negatives; the
other is the same model with 128 negatives gathered for each position.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import torch

from benchmarks.report import Figure, interleaved
from benchmarks.static.encoders import LENGTH, built
from benchmarks.static.sequences import Batch, batches, located, read_sequences
from benchmarks.static.training import Learner

USERS = 32
THREADS = 2
GATHERED = 128
"""Negatives of each position in the public code."""


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """Milliseconds of a step, both ways in turns."""
    torch.set_num_threads(1)
    sequences = read_sequences(Path(located(options.data)), options.order)
    made = list(batches(sequences, 1, LENGTH, USERS, (0,)))[:24]
    ways = {"shared": options.count, "gathered": GATHERED}
    turns: dict[str, Callable[[], float]] = {}
    for model in options.models:
        for way, count in ways.items():
            torch.manual_seed(0)
            learner = Learner(
                built(model, sequences.items), sequences.items, way, count, 0, THREADS
            )
            turns[f"{model}.{way}"] = _taker(learner, made, 4 if options.quick else 8)
    values = interleaved(3 if options.quick else 9, turns)
    events = sum(len(batch.item_T) for batch in made) / len(made)
    for name, taken in values.items():
        model, way = name.split(".")
        yield Figure(
            figure=f"static.step_ms.{way}", value=min(taken), unit="ms", low=min(taken),
            high=max(taken), runs=len(taken),
            settings={"model": model, "users": USERS, "events": round(events), "threads": THREADS,
                      "negatives": ways[way], "value": "best"},
        )  # fmt: skip


def _taker(learner: Learner, made: list[Batch], steps: int) -> Callable[[], float]:
    """Mean milliseconds of a few steps, on the next batches at every call."""
    coming = cycle(made)

    def take() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            learner.learn(next(coming), 1e-3)
        return (time.perf_counter() - began) / steps * 1000

    return take
