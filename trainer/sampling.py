"""Which negatives of the action heads are learned, when not all are.

Of items that were shown and not acted on, a share `keep` is learned, and of each head's labels 0 in
the same rows; every label 1 is. What is learned then has odds that are 1/keep times too high, so
`log keep` is taken from the logits *in training* (He et al., "Practical lessons from predicting
clicks on ads at Facebook", ADKDD 2014, section 6.3): with the calibrated chance p, learned are a
share p of positives and (1 - p) keep of negatives, whose log odds are

    log(p / ((1 - p) keep)) = logit(p) - log keep.

So the logit that is served is logit(p) itself, and the paper's q = p / (p + (1 - p) / w) is not
needed when serving. Whether a negative is kept depends on request, item and seed alone.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from service.histories.leaving import Flags
from service.histories.rings import Longs

_MASK = 2**64 - 1


@dataclass(frozen=True)
class Sampling:
    """A share of the negatives, chosen by hash."""

    keep: float = 1.0
    seed: int = 0

    def kept(self, key: int, item_R: Longs) -> Flags:
        """Which of a request's shown items are learned as negatives, too."""
        if self.keep >= 1:
            return np.ones(len(item_R), np.bool_)
        start = np.uint64((key ^ self.seed * 0x9E3779B97F4A7C15) & _MASK)
        word_R = _mixed(_mixed(item_R.astype(np.uint64) + start) ^ start)
        kept_R: Flags = (word_R >> np.uint64(11)).astype(np.float64) < self.keep * 2**53
        return kept_R


Words = np.ndarray[Any, np.dtype[np.uint64]]


def _mixed(word_R: Words) -> Words:
    """Steele et al., SplitMix64: every bit depends on every other."""
    with np.errstate(over="ignore"):
        word_R = (word_R ^ (word_R >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word_R = (word_R ^ (word_R >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word_R ^ (word_R >> np.uint64(31))
