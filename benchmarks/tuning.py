"""Settings for the baselines, found by hill climbing on the head of a stream.

The head is the first fifth, which the published averages leave out: nothing that is reported was
ever looked at for tuning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import sqrt
from typing import Any, TypeVar

from benchmarks.baselines import Baseline, answer
from benchmarks.protocol import Evaluation, Events, Part, averages_of

Settings = TypeVar("Settings", bound=Any)
HEAD = 0.2
"""Share of the stream, from its start, that tuning may see."""

STEPS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "half_life_hours": lambda hours: (hours / sqrt(2), hours * sqrt(2)),
    "popularity_half_life_hours": lambda hours: (hours / sqrt(2), hours * sqrt(2)),
    "last": lambda last: (max(1, last - 1), last + 1),
    "beta": lambda beta: (beta / 2, beta * 2),
}
"""The neighbours of a setting's value."""


def tune(
    events: Events,
    active_ms: int | None,
    baseline: Callable[[Events, Settings], Baseline],
    settings: Settings,
    sample: int = 20_000,
) -> Settings:
    """The settings with the best NDCG@10 on the head of the stream; no neighbour does better.

    The first fifth of the head only warms the baseline up.
    """
    head = events.first(int(len(events) * HEAD))
    evaluation = Evaluation(head, active_ms, sample)

    @cache
    def reached(candidate: Settings) -> float:
        answer(evaluation, {"candidate": baseline(head, candidate)})
        return averages_of(evaluation, "candidate", Part())["ndcg_at_10"].value

    return climb(reached, settings)


def climb(reached: Callable[[Settings], float], settings: Settings) -> Settings:
    """Follow each setting uphill in turn, until none leads further up."""
    while True:
        best = settings
        for name in [name for name in STEPS if hasattr(settings, name)]:
            best = _climb_one(reached, best, name)
        if best == settings:
            return settings
        settings = best


def _climb_one(reached: Callable[[Settings], float], settings: Settings, name: str) -> Settings:
    while True:
        neighbours = [
            replace(settings, **{name: value}) for value in STEPS[name](getattr(settings, name))
        ]
        best = max([settings, *neighbours], key=reached)
        if best == settings:
            return settings
        settings = best
