"""What every table is asked: the same keys, and fresh batches of them, in every process.

Keys are preloaded in an order that has nothing to do with how often they are asked for: otherwise
the busiest rows would be neighbours in memory, which no real stream gives.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]

EXPONENT = 1.05
"""Of Zipf's law."""
ABSENT = 0.1
"""Share of keys without a row in uniform batches."""
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Batch:
    """Keys, and the place of each in the order of preloading (-1 where it was never loaded)."""

    keys_N: Longs
    places_N: Longs


class Workload:
    """`keys` distinct 64-bit keys and batches of them; a function of its arguments alone."""

    def __init__(self, keys: int, batch: int) -> None:
        self.size, self.batch = keys, batch
        self.keys_K = _spread(np.arange(keys, dtype=np.uint64) * np.uint64(2) + np.uint64(1))
        self._place_by_rank = np.random.default_rng(0).permutation(keys)
        weights = np.arange(1, keys + 1, dtype=np.float64) ** -EXPONENT
        self._shares = np.cumsum(weights) / weights.sum()

    def preloading(self) -> Iterator[Longs]:
        """All keys, a batch at a time, in the order that `places` refer to."""
        for first in range(0, self.size, self.batch):
            yield self.keys_K[first : first + self.batch]

    def batches(self, kind: str, seed: int, count: int) -> list[Batch]:
        """Batches drawn anew. `zipf`: every key has a row; `uniform`: all but a tenth."""
        random = np.random.default_rng([seed, count, len(kind)])
        draw = {"zipf": self._zipf, "uniform": self._uniform}[kind]
        return [draw(random) for _ in range(count)]

    def _zipf(self, random: np.random.Generator) -> Batch:
        ranks = np.searchsorted(self._shares, random.random(self.batch))
        places = self._place_by_rank[np.minimum(ranks, self.size - 1)]
        return Batch(self.keys_K[places], places)

    def _uniform(self, random: np.random.Generator) -> Batch:
        places = random.integers(self.size, size=self.batch)
        keys = self.keys_K[places]
        absent = random.random(self.batch) < ABSENT
        # Even numbers stay even under an odd factor, and every preloaded key is odd.
        strangers = random.integers(2**62, size=int(absent.sum()), dtype=np.uint64)
        keys[absent], places[absent] = _spread(strangers * np.uint64(2)), -1
        return Batch(keys, places)


def vectors_of(places_N: Longs, dim: int) -> npt.NDArray[Any]:
    """The float32 vector that a peer is preloaded with at a place: no two places have the same."""
    components = np.arange(1, dim + 1, dtype=np.float64)
    fractions = np.modf((places_N[:, None] + 1.0) * components * 0.6180339887498949)[0]
    return (fractions - 0.5).astype(np.float32)


def gradients(batch: int, dim: int) -> npt.NDArray[Any]:
    """Gradients of one batch, float32 [batch, dim]; the same for every table."""
    return np.random.default_rng(1).standard_normal((batch, dim), dtype=np.float32)


def _spread(numbers: npt.NDArray[np.uint64]) -> Longs:
    """Distinct numbers to distinct keys all over the range."""
    return (numbers * _ODD).view(np.int64)
