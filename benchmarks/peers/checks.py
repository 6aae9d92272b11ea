"""What a table must return before it is timed, worked out in numpy from the preloaded vectors."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.workload import Batch, Workload, gradients, vectors_of

SEED = 2**31
"""Of the checked batches: no round uses it."""

Find = Callable[[Batch], Any]
Train = Callable[[Batch], object]


def lookups(find: Find, workload: Workload, dim: int) -> None:
    """Every known key of a batch must give the vector that it was preloaded with, bit for bit."""
    for kind in ("zipf", "uniform"):
        (batch,) = workload.batches(kind, SEED, 1)
        known_N = batch.places_N >= 0
        found = np.asarray(find(batch))[known_N]
        wrong = (found != vectors_of(batch.places_N[known_N], dim)).any(axis=1)
        assert not wrong.any(), f"{kind}: {wrong.sum()} of {len(wrong)} keys have another's vector"


def sgd(find: Find, train: Train, workload: Workload, rate: float) -> None:
    """One batch: each distinct key moves by the sum of its gradients, once."""
    _steps(find, train, workload, lambda sums_UD: rate * sums_UD)


def adagrad(find: Find, train: Train, workload: Workload, rate: float, first: float) -> None:
    """One batch of Adagrad with a sum of squares per component that starts at `first`."""
    _steps(find, train, workload, lambda sums_UD: rate * sums_UD / np.sqrt(first + sums_UD**2))


def row_wise_adagrad(find: Find, train: Train, workload: Workload, rate: float) -> None:
    """One batch of Adagrad with one sum of mean squares per row that starts at 0."""

    def step(sums_UD: Any) -> Any:
        return rate * sums_UD / np.sqrt((sums_UD**2).mean(axis=1, keepdims=True))

    _steps(find, train, workload, step)


def _steps(find: Find, train: Train, workload: Workload, step: Callable[[Any], Any]) -> None:
    (batch,) = workload.batches("zipf", SEED, 1)
    before_ND = np.array(find(batch), np.float64)
    train(batch)
    after_ND = np.asarray(find(batch))
    _, first_U, places_N = np.unique(batch.places_N, return_index=True, return_inverse=True)
    sums_UD = np.zeros((len(first_U), before_ND.shape[1]))
    np.add.at(sums_UD, places_N, gradients(workload.batch, before_ND.shape[1]))
    wanted_UD = before_ND[first_U] - step(sums_UD)
    np.testing.assert_allclose(after_ND[first_U], wanted_UD, rtol=2e-4, atol=2e-5)
