"""What a model must beat: decayed popularity, decayed co-occurrence, and their blend.

Each learns every event, after it was scored. Counts decay exponentially in event time. Instead of
shrinking old counts, new ones weigh more (forward decay: Cormode, Shkapenyuk, Srivastava and Xu,
ICDE 2009): an event at time t adds 2^((t - origin) / half-life), and a count's value at time t is
what is stored divided by the same power. The origin moves up before the powers overflow.

The legend: T events, I items, P pairs, L events of history, C candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks.protocol.evaluation import Evaluation
from benchmarks.protocol.events import Events, Ints

Floats = NDArray[np.float64]
Slots = NDArray[np.int32]
HOUR_MS = 3_600_000
_LARGEST_POWER = 500.0


class Baseline(Protocol):
    """Scores from the past alone."""

    def learn(self, until: int) -> None:
        """Learn the events of the stream before position `until` that were not learned yet."""

    def scores(self, event: int, candidates_C: Ints) -> Floats:
        """A score per candidate for the user and the time of `event`, which is not learned yet."""


@dataclass(frozen=True)
class PopularitySettings:
    """Tuned on the first fifth of Globo (docs/evaluation.md)."""

    half_life_hours: float = 1.0


@dataclass(frozen=True)
class CooccurrenceSettings:
    """Tuned on the first fifth of Globo (docs/evaluation.md)."""

    half_life_hours: float = 4.0
    last: int = 5
    """L: how many of a user's events an item follows, and how many are asked for the next."""


@dataclass(frozen=True)
class BlendSettings:
    """Tuned on the first fifth of Globo (docs/evaluation.md)."""

    half_life_hours: float = 1.0
    """Of the co-occurrence counts."""
    last: int = 2
    popularity_half_life_hours: float = 0.25
    beta: float = 3.0
    """How many decayed events of an item weigh as much as the prior, popularity."""


def answer(evaluation: Evaluation, baselines: Mapping[str, Baseline]) -> None:
    """Put every question to every baseline: score the event, then learn it."""
    for question in evaluation.one_by_one():
        event = int(question.events_B[0])
        for name, baseline in baselines.items():
            baseline.learn(event)
            scores_C = baseline.scores(event, question.candidates_C)
            evaluation.record(name, question, scores_C[None])


class Popularity:
    """p(i): decayed events of an item, as a share of all."""

    def __init__(self, events: Events, settings: PopularitySettings) -> None:
        self._events = events
        self._half_life_ms = settings.half_life_hours * HOUR_MS
        self._origin_ms = events.at_ms_T[:1].copy()
        self._count_I = np.zeros(events.items)
        self._learned = 0

    def learn(self, until: int) -> None:
        """See `Baseline`."""
        columns = (self._events.item_T, self._events.at_ms_T)
        span = (self._learned, until, self._half_life_ms)
        _count(self._count_I, self._origin_ms, *columns, *span)
        self._learned = until

    def scores(self, event: int, candidates_C: Ints) -> Floats:
        """p of each candidate; the same for every user."""
        return self._count_I[candidates_C] / self._count_I.sum()


class Cooccurrence:
    """c(a, b): decayed events in which b follows a within the user's last L; n(a): those of a.

    The score of b is the sum over the user's last L items j, the most recent with weight 1, the one
    before it with 1/2, and so on, of c(j, b) / n(j).
    """

    def __init__(self, events: Events, settings: CooccurrenceSettings) -> None:
        self._events = events
        self._half_life_ms = settings.half_life_hours * HOUR_MS
        self._origin_ms = events.at_ms_T[:1].copy()
        self._pairs = pairs_of(events, settings.last)
        self._pair_P = np.zeros(len(self._pairs.second_P))
        self._count_I = np.zeros(events.items)
        self._scratch_I = np.zeros(events.items)
        self._learned = 0

    def learn(self, until: int) -> None:
        """See `Baseline`."""
        columns = (self._events.item_T, self._events.at_ms_T, self._pairs.pair_TL)
        span = (self._learned, until, self._half_life_ms)
        _count_pairs(self._pair_P, self._count_I, self._origin_ms, *columns, *span)
        self._learned = until

    def scores(self, event: int, candidates_C: Ints) -> Floats:
        """Zero for what never followed any of the user's last items."""
        return self.smoothed(event, candidates_C, 0.0)[0]

    def smoothed(self, event: int, candidates_C: Ints, beta: float) -> tuple[Floats, float]:
        """Per candidate the sum of (1/j) c(j, b) / (n(j) + beta), and that of (1/j) beta / (same)."""
        events, pairs = self._events, self._pairs
        elapsed_ms = float(events.at_ms_T[event] - self._origin_ms[0])
        decay = 2.0 ** -(elapsed_ms / self._half_life_ms)
        counts = (self._pair_P, self._count_I, self._scratch_I, pairs.second_P, pairs.start_I)
        columns = (events.item_T, events.previous_T)
        asked = (event, pairs.pair_TL.shape[1], decay, beta)
        return _smoothed(*counts, *columns, *asked, candidates_C)


class Blend:
    """Co-occurrence with popularity as its prior.

    score(b) = sum over the last L items j of (1/j) (c(j, b) + beta p(b)) / (n(j) + beta).
    """

    def __init__(self, events: Events, settings: BlendSettings) -> None:
        popularity = PopularitySettings(settings.popularity_half_life_hours)
        self._popularity = Popularity(events, popularity)
        cooccurrence = CooccurrenceSettings(settings.half_life_hours, settings.last)
        self._cooccurrence = Cooccurrence(events, cooccurrence)
        self._beta = settings.beta

    def learn(self, until: int) -> None:
        """See `Baseline`."""
        self._popularity.learn(until)
        self._cooccurrence.learn(until)

    def scores(self, event: int, candidates_C: Ints) -> Floats:
        """The smoothed share of followers, summed over the user's last items."""
        followed_C, prior = self._cooccurrence.smoothed(event, candidates_C, self._beta)
        return followed_C + prior * self._popularity.scores(event, candidates_C)


@dataclass(frozen=True)
class Pairs:
    """Every pair (a, b) of which b ever follows a within L, numbered by a, then b.

    The numbers say where counts will lie, not what they are: those grow from zero along the stream.
    """

    start_I: Ints
    """Pairs of item a are start_I[a] <= pair < start_I[a + 1]."""
    second_P: Slots
    """b of each pair."""
    pair_TL: Slots
    """The pairs that an event counts, most recent predecessor first; -1 where there is none."""


@lru_cache(maxsize=2)
def pairs_of(events: Events, last: int) -> Pairs:
    """Number the pairs of a stream."""
    first_TL = _predecessors(events.item_T, events.previous_T, last)
    key_TL = np.where(first_TL >= 0, first_TL * events.items + events.item_T[:, None], -1)
    key_P, pair_TL = np.unique(key_TL, return_inverse=True)
    absent = int(len(key_P) > 0 and key_P[0] < 0)
    first_P, second_P = np.divmod(key_P[absent:], events.items)
    start_I = np.searchsorted(first_P, np.arange(events.items + 1))
    pair_TL = pair_TL.reshape(key_TL.shape) - absent
    return Pairs(start_I, second_P.astype(np.int32), pair_TL.astype(np.int32))


@njit(cache=True, nogil=True)
def _predecessors(item_T: Ints, previous_T: Ints, last: int) -> Ints:
    """Items of the last events of the same user before each event, the most recent first, else -1."""
    first_TL = np.full((len(item_T), last), -1, np.int64)
    for event in range(len(item_T)):
        earlier = previous_T[event]
        for place in range(last):
            if earlier < 0:
                break
            first_TL[event, place] = item_T[earlier]
            earlier = previous_T[earlier]
    return first_TL


@njit(cache=True, nogil=True)
def _count(
    count_I: Floats,
    origin_ms: Ints,
    item_T: Ints,
    at_ms_T: Ints,
    start: int,
    stop: int,
    half_life_ms: float,
) -> None:
    for event in range(start, stop):
        exponent = (at_ms_T[event] - origin_ms[0]) / half_life_ms
        if exponent > _LARGEST_POWER:
            count_I *= 2.0**-exponent
            origin_ms[0], exponent = at_ms_T[event], 0.0
        count_I[item_T[event]] += 2.0**exponent


@njit(cache=True, nogil=True)
def _count_pairs(
    pair_P: Floats,
    count_I: Floats,
    origin_ms: Ints,
    item_T: Ints,
    at_ms_T: Ints,
    pair_TL: Slots,
    start: int,
    stop: int,
    half_life_ms: float,
) -> None:
    for event in range(start, stop):
        exponent = (at_ms_T[event] - origin_ms[0]) / half_life_ms
        if exponent > _LARGEST_POWER:
            count_I *= 2.0**-exponent
            pair_P *= 2.0**-exponent
            origin_ms[0], exponent = at_ms_T[event], 0.0
        weight = 2.0**exponent
        count_I[item_T[event]] += weight
        for place in range(pair_TL.shape[1]):
            if pair_TL[event, place] < 0:
                break
            pair_P[pair_TL[event, place]] += weight


@njit(cache=True, nogil=True)
def _smoothed(
    pair_P: Floats,
    count_I: Floats,
    scratch_I: Floats,
    second_P: Slots,
    start_I: Ints,
    item_T: Ints,
    previous_T: Ints,
    event: int,
    last: int,
    decay: float,
    beta: float,
    candidates_C: Ints,
) -> tuple[Floats, float]:
    """scratch_I is zero everywhere on entry and on return."""
    prior = 0.0
    earlier = previous_T[event]
    place = 1
    while earlier >= 0 and place <= last:
        item = item_T[earlier]
        weight = 1.0 / (place * max(count_I[item] * decay + beta, 1e-300))
        for pair in range(start_I[item], start_I[item + 1]):
            scratch_I[second_P[pair]] += weight * decay * pair_P[pair]
        prior += weight * beta
        earlier = previous_T[earlier]
        place += 1
    scores_C = scratch_I[candidates_C]
    scratch_I[:] = 0.0
    return scores_C, prior
