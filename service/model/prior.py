"""What counts say of an item before anything is known of who asks.

A snapshot holds counts that need not change when time passes: an occurrence at time t adds
`2^((t - origin) / half_life)`, and a version of a later time takes all of them times one factor.

Shapes: R rows, P half-lives.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from service.model.network import PRIOR_EPS
from service.model.settings import ModelSettings
from service.versions import Snapshot

COUNTS = "counts"
"""Name of an item's counts among the extras of its row."""
COUNTS_ORIGIN = "counts_origin_ms"
"""Name of the counts' origin among the facts of a snapshot."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Prior:
    """One version's log-linear prior of decayed counts."""

    origin_ms: int
    factor_P: Floats
    """What takes a count from the origin to the version's time."""
    weights_P: Floats

    @classmethod
    def of(cls, snapshot: Snapshot, settings: ModelSettings, weights_P: Floats) -> "Prior":
        """The prior at the time that the snapshot was cut. Raises KeyError without an origin."""
        origin_ms = int(snapshot.model[COUNTS_ORIGIN])
        seconds = (snapshot.at_ms - origin_ms) / 1000
        factor_P = np.exp2(-seconds / np.array(settings.priors)).astype(np.float32)
        return cls(origin_ms, factor_P, weights_P)

    def __call__(self, counts: Floats) -> Floats:
        """Priors [R] of counts [R * P], the same to the bit wherever a row stands."""
        prior_R = np.empty(len(counts) // len(self.factor_P), np.float32)
        _priors(counts, self.factor_P, self.weights_P, prior_R)
        return prior_R


@njit(cache=True, nogil=True)
def _priors(counts: Any, factor: Any, weights: Any, prior: Any) -> None:
    width = np.uint64(len(factor))
    for r in range(len(prior)):
        total = np.float32(0)
        for p in range(width):
            count = counts[np.uint64(r) * width + p] * factor[p]
            total += math.log(count + np.float32(PRIOR_EPS)) * weights[p]
        prior[r] = total
