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

FACTORS = (8.0, 2.0, sqrt(2))
"""By how much a step changes a half-life or beta: far first, then near."""
LEAST = 0.0005
"""NDCG@10 that a step must gain. Less is noise, and would follow a plateau without end."""

STEPS: dict[str, Callable[[Any, float], tuple[Any, ...]]] = {
    "half_life_hours": lambda hours, factor: (hours / factor, hours * factor),
    "popularity_half_life_hours": lambda hours, factor: (hours / factor, hours * factor),
    "last": lambda last, factor: (max(1, last - 1), last + 1),
    "beta": lambda beta, factor: (beta / factor, beta * factor),
}
"""The neighbours of a setting's value."""


def tune(
    events: Events,
    active_ms: int | None,
    baseline: Callable[[Events, Settings], Baseline],
    settings: Settings,
    sample: int = 20_000,
) -> Settings:
    """The settings with the best NDCG@10 on the head of the stream that climbing finds.

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
    """Follow each setting uphill in turn until none leads further up, in ever smaller steps."""
    names = [name for name in STEPS if hasattr(settings, name)]
    for factor in FACTORS:
        before = None
        while before != settings:
            before = settings
            for name in names:
                settings = _climb_one(reached, settings, name, factor)
    return settings


def _climb_one(
    reached: Callable[[Settings], float], settings: Settings, name: str, factor: float
) -> Settings:
    while True:
        values = STEPS[name](getattr(settings, name), factor)
        best = max((replace(settings, **{name: value}) for value in values), key=reached)
        if reached(best) < reached(settings) + LEAST:
            return settings
        settings = best
