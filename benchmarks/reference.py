"""The protocol and the baselines once more, word for word, in plain Python: slow and obvious.

The check that runs before the prequential benchmark, and its tests, hold the fast code against it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import (
    HOUR_MS,
    Baseline,
    Blend,
    BlendSettings,
    Cooccurrence,
    CooccurrenceSettings,
    Floats,
    Popularity,
    PopularitySettings,
)
from benchmarks.protocol.evaluation import MISS, NOT_COUNTED, Evaluation
from benchmarks.protocol.events import Events
from benchmarks.report import CheckFailed


def active_items(events: Events, event: int, active_ms: int | None) -> set[int]:
    """Items of earlier events that are no older than active_ms."""
    since_ms = -np.inf if active_ms is None else events.at_ms_T[event] - active_ms
    return {int(events.item_T[e]) for e in range(event) if events.at_ms_T[e] >= since_ms}


def history(events: Events, event: int) -> list[int]:
    """The items of the user's earlier events, the most recent first."""
    user = events.user_T[event]
    return [int(events.item_T[e]) for e in reversed(range(event)) if events.user_T[e] == user]


def ranks(
    events: Events, event: int, active_ms: int | None, score_I: NDArray[np.floating]
) -> tuple[int, int]:
    """The rank of an event's item under these scores of all items, and that without seen items."""
    truth, active = int(events.item_T[event]), active_items(events, event, active_ms)
    seen = set(history(events, event))
    if truth not in active:
        return MISS, NOT_COUNTED if truth in seen else MISS
    plain = 1 + sum(bool(score_I[i] >= score_I[truth]) for i in active - {truth})
    if truth in seen:
        return plain, NOT_COUNTED
    return plain, 1 + sum(bool(score_I[i] >= score_I[truth]) for i in active - seen - {truth})


def decay(events: Events, past: int, event: int, half_life_hours: float) -> float:
    """What a past event still weighs at the time of another."""
    elapsed_ms = int(events.at_ms_T[event] - events.at_ms_T[past])
    return float(0.5 ** (elapsed_ms / (half_life_hours * HOUR_MS)))


def counts(events: Events, event: int, half_life_hours: float) -> Floats:
    """n(i) just before an event."""
    count_I = np.zeros(events.items)
    for past in range(event):
        count_I[events.item_T[past]] += decay(events, past, event, half_life_hours)
    return count_I


def popularity(events: Events, event: int, half_life_hours: float) -> Floats:
    """p(i) just before an event."""
    count_I = counts(events, event, half_life_hours)
    share_I: Floats = count_I / count_I.sum()
    return share_I


def followers(events: Events, event: int, half_life_hours: float, last: int) -> Floats:
    """c(a, b) just before an event."""
    count_II = np.zeros((events.items, events.items))
    for past in range(event):
        weight = decay(events, past, event, half_life_hours)
        for earlier in history(events, past)[:last]:
            count_II[earlier, events.item_T[past]] += weight
    return count_II


def cooccurrence(events: Events, event: int, settings: CooccurrenceSettings) -> Floats:
    """The sum over the last L items j of (1/j) c(j, b)."""
    count_II = followers(events, event, settings.half_life_hours, settings.last)
    last_L = history(events, event)[: settings.last]
    return sum((count_II[item] / j for j, item in enumerate(last_L, 1)), np.zeros(events.items))


def blend(events: Events, event: int, settings: BlendSettings) -> Floats:
    """The sum over the last L items j of (1/j) (c(j, b) + beta p(b)) / (n(j) + beta)."""
    count_II = followers(events, event, settings.half_life_hours, settings.last)
    count_I = counts(events, event, settings.half_life_hours)
    prior_I = settings.beta * popularity(events, event, settings.popularity_half_life_hours)
    score_I = np.zeros(events.items)
    for j, item in enumerate(history(events, event)[: settings.last], 1):
        score_I += (count_II[item] + prior_I) / (count_I[item] + settings.beta) / j
    return score_I


def check(seed: int = 0) -> None:
    """Hold the fast protocol and the fast baselines against all this, on a stream full of ties.

    Raises `CheckFailed` naming the event at which they differ.
    """
    events = stream(seed)
    for active_ms in (None, 0, 10 * HOUR_MS):
        _check_ranks(events, active_ms, np.random.default_rng(seed))
    _check_scores(events)


def stream(seed: int, users: int = 12, items: int = 20, events: int = 150) -> Events:
    """A random stream at whole hours, so that many events share a time."""
    random = np.random.default_rng(seed)
    at_ms_T = random.integers(0, 60, events) * HOUR_MS
    return Events.of(random.integers(0, users, events), random.integers(0, items, events), at_ms_T)


def _check_ranks(events: Events, active_ms: int | None, random: np.random.Generator) -> None:
    evaluation = Evaluation(events, active_ms, sample=60)
    score_I = random.integers(0, 5, events.items).astype(np.float32)
    for start in range(0, len(events), 40):
        questions = evaluation.questions(start, start + 40)
        scores_C = score_I[questions.candidates_C]
        evaluation.record("check", questions, np.tile(scores_C, (len(questions), 1)))
    reached = evaluation.ranks("check")
    for s, event in enumerate(evaluation.sample_S):
        expected = ranks(events, int(event), active_ms, score_I)
        found = (int(reached.plain_S[s]), int(reached.unseen_S[s]))
        if found != expected:
            raise CheckFailed(f"the item of event {event} ranks {found}, not {expected}")


def _check_scores(events: Events) -> None:
    p, c, b = PopularitySettings(3.0), CooccurrenceSettings(9.0, 4), BlendSettings(9.0, 4, 3.0, 2.0)
    cases: list[tuple[Baseline, Callable[[int], Floats]]] = [
        (Popularity(events, p), lambda event: popularity(events, event, p.half_life_hours)),
        (Cooccurrence(events, c), lambda event: cooccurrence(events, event, c)),
        (Blend(events, b), lambda event: blend(events, event, b)),
    ]
    everything_I = np.arange(events.items)
    for fast, plain in cases:
        for event in range(1, len(events), 7):
            fast.learn(event)
            if not np.allclose(fast.scores(event, everything_I), plain(event), rtol=1e-9):
                raise CheckFailed(f"{type(fast).__name__} scores event {event} by another formula")
