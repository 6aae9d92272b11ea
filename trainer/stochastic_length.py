"""Stochastic length: long histories are shortened in most of their training examples.

Source: Actions Speak Louder than Words (arXiv 2402.17152), section 3.2 and its appendix on how the
events that stay are chosen, of which this is the choice weighted by recency.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from kernels.mixing import GOLDEN, mix64
from service.histories.leaving import Flags
from service.histories.rings import Longs


@dataclass(frozen=True)
class StochasticLength:
    """A history of n events under a window of N keeps N^(alpha/2) of them with probability
    1 - N^alpha / n^2, and all of them otherwise or where it is no longer than that.

    alpha: above 1, at most 2, where nothing is left out. seed: numbers that name the draws, such as
    the seed of the run and the number of the block.
    """

    alpha: float
    seed: tuple[int, ...]

    def short(self, window: int) -> int:
        """Events that a shortened history keeps: N^(alpha/2), rounded down."""
        return int(window ** (self.alpha / 2))

    def longest_work(self, window: int) -> float:
        """N^alpha: the square of the length above which histories are shortened, sometimes."""
        return float(window**self.alpha)

    @property
    def word(self) -> np.uint64:
        """The seed as one word."""
        word = GOLDEN
        for part in self.seed:
            word = np.uint64(mix64(word ^ np.uint64(part)))
        return word


@njit(cache=True, nogil=True)
def staying(at_ms_N: Longs, short: int, longest_work: float, word: np.uint64) -> Flags:
    """Which of a history's N events stay, oldest first; `word` decides everything.

    The newest stays: a query is made from it. The others are drawn without replacement with
    weights 1 - age / (sum of the ages), the paper's, by the largest log(uniform) / weight
    (Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006).
    """
    events = len(at_ms_N)
    stays_N = np.ones(events, np.bool_)
    if events <= short or _uniform(word, 0) * events * events < longest_work:
        return stays_N
    ages = 0.0
    for at_ms in at_ms_N:
        ages += max(at_ms_N[-1] - at_ms, 0)
    key_N = np.zeros(events)
    for n in range(events - 1):
        weight = 1.0 - max(at_ms_N[-1] - at_ms_N[n], 0) / max(ages, 1.0)
        key_N[n] = np.log(_uniform(word, n + 1)) / weight if weight > 0 else -np.inf
    least = np.sort(key_N)[events - short]
    for n in range(events):
        stays_N[n] = key_N[n] >= least
    return stays_N


@njit(cache=True, nogil=True)
def word_of(word: np.uint64, user: int, ordinal: int) -> np.uint64:
    """The draws of one user's example whose window starts at that ordinal."""
    word = mix64(np.uint64(word) ^ mix64(np.uint64(user)))
    return mix64(word + GOLDEN * np.uint64(ordinal + 1))


@njit(cache=True, nogil=True)
def _uniform(word: np.uint64, number: int) -> float:
    """Above 0 and below 1."""
    bits = mix64(word + GOLDEN * np.uint64(number + 1)) >> np.uint64(11)
    return (np.float64(bits) + 0.5) * 2.0**-53
