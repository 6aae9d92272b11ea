"""HR, MRR and NDCG at 10 of ranks, averaged over parts of the stream, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import nan, sqrt

import numpy as np
from numpy.typing import NDArray

from benchmarks.protocol.evaluation import NOT_COUNTED, Evaluation, Ranks

Floats = NDArray[np.float64]
LIST = 10
DAY_MS = 86_400_000
MARGIN_95 = 1.959964
"""Standard errors of a mean on either side of it that hold 95 % of a normal distribution."""

GAINS: dict[str, Callable[[Ranks], Floats]] = {
    "hr_at_10": lambda rank_N: (rank_N <= LIST).astype(np.float64),
    "mrr_at_10": lambda rank_N: np.where(rank_N <= LIST, 1 / rank_N, 0.0),
    "ndcg_at_10": lambda rank_N: np.where(rank_N <= LIST, 1 / np.log2(1.0 + rank_N), 0.0),
}
"""What one event contributes to each metric, given its rank."""


@dataclass(frozen=True)
class Average:
    """A mean over `events` scored events, and its normal 95 % interval."""

    value: float
    low: float
    high: float
    events: int


@dataclass(frozen=True)
class Part:
    """The part of the stream from a share of its events on, with or without items a user had."""

    skip: float = 0.2
    """Share of all events of the stream, by position, that is left out at its start."""
    unseen: bool = False


def averages_of(evaluation: Evaluation, method: str, part: Part) -> dict[str, Average]:
    """Each metric's average over the sampled events of a part."""
    rank_S = _ranks_of(evaluation, method, part.unseen)
    in_part_S = evaluation.sample_S >= part.skip * len(evaluation.events)
    return _averages(rank_S[in_part_S & (rank_S != NOT_COUNTED)])


def averages_by_day(
    evaluation: Evaluation, method: str, *, unseen: bool = False
) -> dict[str, dict[str, Average]]:
    """Each metric's average per day (UTC, ISO date) that holds a sampled event, days rising."""
    rank_S = _ranks_of(evaluation, method, unseen)
    day_S = evaluation.events.at_ms_T[evaluation.sample_S] // DAY_MS
    counted_S = rank_S != NOT_COUNTED
    return {
        _iso(day): _averages(rank_S[counted_S & (day_S == day)])
        for day in np.unique(day_S[counted_S])
    }


def _ranks_of(evaluation: Evaluation, method: str, unseen: bool) -> Ranks:
    ranks = evaluation.ranks(method)
    return ranks.unseen_S if unseen else ranks.plain_S


def _iso(day: int) -> str:
    return datetime.fromtimestamp(int(day) * DAY_MS / 1000, UTC).date().isoformat()


def _averages(rank_N: Ranks) -> dict[str, Average]:
    return {metric: _average(gains(rank_N)) for metric, gains in GAINS.items()}


def _average(gain_N: Floats) -> Average:
    """The mean of no event is not a number."""
    events = len(gain_N)
    if not events:
        return Average(nan, nan, nan, 0)
    mean = float(gain_N.mean())
    margin = MARGIN_95 * float(gain_N.std()) / sqrt(events)
    return Average(mean, mean - margin, mean + margin, events)
