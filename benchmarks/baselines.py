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

    half_life_hours: float = 0.0625


@dataclass(frozen=True)
class CooccurrenceSettings:
    """Tuned on the first fifth of Globo (docs/evaluation.md)."""

    half_life_hours: float = 0.18
    last: int = 3
    """L: how many of a user's events an item follows, and how many are asked for the next."""


@dataclass(frozen=True)
class BlendSettings:
    """Tuned on the first fifth of Globo (docs/evaluation.md)."""

    half_life_hours: float = 0.25
    """Of the co-occurrence counts."""
    last: int = 1
    popularity_half_life_hours: float = 0.022
    beta: float = 24.0
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
        counts, columns = (
            (self._count_I, self._origin_ms),
            (self._events.item_T, self._events.at_ms_T),
        )
        _count(*counts, *columns, self._learned, until, self._half_life_ms)
        self._learned = until

    def scores(self, event: int, candidates_C: Ints) -> Floats:
        """p of each candidate; the same for every user."""
        share_C: Floats = self._count_I[candidates_C] / self._count_I.sum()
        return share_C


class Cooccurrence:
    """c(a, b): decayed events in which b follows a within the user's last L.

    The score of b is the sum of (1/j) c(j, b) over the user's last L items j: the most recent has
    j = 1, the one before it j = 2, and so on. Not divided by the events of j: on Globo that loses
    (docs/evaluation.md).
    """

    def __init__(self, events: Events, settings: CooccurrenceSettings) -> None:
        self._events = events
        self._last = settings.last
        self._half_life_ms = settings.half_life_hours * HOUR_MS
        self._origin_ms = events.at_ms_T[:1].copy()
        self._pairs = pairs_of(events, settings.last)
        self._pair_P = np.zeros(len(self._pairs.second_P))
        self._count_I = np.zeros(events.items)
        self._scratch_I = np.zeros(events.items)
        self._learned = 0

    def learn(self, until: int) -> None:
        """See `Baseline`."""
        counts = (self._pair_P, self._count_I, self._origin_ms)
        columns = (self._events.item_T, self._events.at_ms_T, self._pairs.pair_TL)
        _count_pairs(*counts, *columns, self._learned, until, self._half_life_ms)
        self._learned = until

    def scores(self, event: int, candidates_C: Ints) -> Floats:
        """Zero for what never followed any of the user's last items."""
        last_J = self._last_items(event)
        return self._followers(event, last_J, _nearness(last_J), candidates_C)

    def smoothed(self, event: int, candidates_C: Ints, beta: float) -> tuple[Floats, float]:
        """Per candidate the sum of (1/j) c(j, b) / (n(j) + beta), and that of (1/j) beta / (same).

        n(j) are the decayed events of j.
        """
        last_J = self._last_items(event)
        count_J = self._count_I[last_J] * self._decay(event)
        weight_J = _nearness(last_J) / (count_J + beta)
        followers_C = self._followers(event, last_J, weight_J, candidates_C)
        return followers_C, float(weight_J.sum()) * beta

    def _decay(self, event: int) -> float:
        """What turns stored counts into their values at the time of an event."""
        elapsed_ms = float(self._events.at_ms_T[event] - self._origin_ms[0])
        return float(2.0 ** -(elapsed_ms / self._half_life_ms))

    def _last_items(self, event: int) -> Ints:
        """The items of the user's last L events before this one, the most recent first."""
        columns = (self._events.item_T, self._events.previous_T)
        last_L: Ints = _predecessors(*columns, event, event + 1, self._last)[0]
        return last_L[last_L >= 0]

    def _followers(self, event: int, last_J: Ints, weight_J: Floats, candidates_C: Ints) -> Floats:
        """The sum of weight c(j, b) over these items j, for each candidate b."""
        counts = (self._pair_P, self._pairs.second_P, self._pairs.start_I)
        weight_J = weight_J * self._decay(event)
        return _followers(*counts, self._scratch_I, last_J, weight_J, candidates_C)


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
        followers_C, prior = self._cooccurrence.smoothed(event, candidates_C, self._beta)
        return followers_C + prior * self._popularity.scores(event, candidates_C)


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
    first_TL = _predecessors(events.item_T, events.previous_T, 0, len(events), last)
    key_TL = np.where(first_TL >= 0, first_TL * events.items + events.item_T[:, None], -1)
    key_P, pair_TL = np.unique(key_TL, return_inverse=True)
    absent = int(len(key_P) > 0 and key_P[0] < 0)
    first_P, second_P = np.divmod(key_P[absent:], events.items)
    start_I = np.searchsorted(first_P, np.arange(events.items + 1))
    pair_TL = pair_TL.reshape(key_TL.shape) - absent
    return Pairs(start_I, second_P.astype(np.int32), pair_TL.astype(np.int32))


def _nearness(last_J: Ints) -> Floats:
    """1, 1/2, 1/3.."""
    return 1.0 / np.arange(1, len(last_J) + 1)


@njit(cache=True, nogil=True)
def _predecessors(item_T: Ints, previous_T: Ints, start: int, stop: int, last: int) -> Ints:
    """Items of a user's last events before each of these, the most recent first; -1 for none."""
    first_TL = np.full((stop - start, last), -1, np.int64)
    for row in range(stop - start):
        earlier = previous_T[start + row]
        for place in range(last):
            if earlier < 0:
                break
            first_TL[row, place] = item_T[earlier]
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
def _followers(
    pair_P: Floats,
    second_P: Slots,
    start_I: Ints,
    scratch_I: Floats,
    last_J: Ints,
    weight_J: Floats,
    candidates_C: Ints,
) -> Floats:
    """scratch_I is zero everywhere on entry and on return."""
    for j in range(len(last_J)):
        for pair in range(start_I[last_J[j]], start_I[last_J[j] + 1]):
            scratch_I[second_P[pair]] += weight_J[j] * pair_P[pair]
    scores_C = scratch_I[candidates_C]
    scratch_I[:] = 0.0
    return scores_C
