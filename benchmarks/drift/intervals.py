"""The mean of a few seeds and what it is known to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % quantiles of Student's t with 1, 2, .. degrees of freedom."""

MOST_RUNS = len(T_95) + 1


@dataclass(frozen=True)
class Interval:
    """Mean, standard deviation of single runs, and the 95 % t-interval of the mean."""

    mean: float
    deviation: float
    low: float
    high: float
    runs: int


def interval(runs: Sequence[float]) -> Interval:
    """Of one run nothing is known but the run: deviation 0, and no interval around it.

    Raises ValueError for more than ten runs.
    """
    if len(runs) > MOST_RUNS:
        raise ValueError(f"{len(runs)} runs: quantiles are kept for {MOST_RUNS} at most")
    middle = float(mean(runs))
    if len(runs) == 1:
        return Interval(middle, 0.0, middle, middle, 1)
    deviation = float(stdev(runs))
    margin = T_95[len(runs) - 2] * deviation / sqrt(len(runs))
    return Interval(middle, deviation, middle - margin, middle + margin, len(runs))
