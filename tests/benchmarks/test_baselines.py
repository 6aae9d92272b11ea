"""Baselines against their formulas; tuning; the plot."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from benchmarks import reference
from benchmarks.baselines import (
    Blend,
    BlendSettings,
    Cooccurrence,
    CooccurrenceSettings,
    Popularity,
    PopularitySettings,
)
from benchmarks.protocol import Events
from benchmarks.tuning import climb, tune

EVENTS = reference.stream(seed=4)
ALL_I = np.arange(EVENTS.items)
MAKERS = {
    "popularity": lambda h: Popularity(EVENTS, PopularitySettings(h)),
    "cooccurrence": lambda h: Cooccurrence(EVENTS, CooccurrenceSettings(h, 3)),
    "blend": lambda h: Blend(EVENTS, BlendSettings(h, 3, h, 2.0)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_half_life_of_seconds_neither_overflows_nor_forgets_the_order(name):
    """60 hours are 5,400 half-lives: far past what one origin of time could hold."""
    baseline = MAKERS[name](1 / 90)
    baseline.learn(len(EVENTS) - 1)
    scores_I = baseline.scores(len(EVENTS) - 1, ALL_I)
    assert np.isfinite(scores_I).all()
    latest = EVENTS.item_T[EVENTS.at_ms_T == EVENTS.at_ms_T[-2]]
    if name == "popularity":
        assert set(np.flatnonzero(scores_I > 0.01)) <= set(latest.tolist())


def test_a_moved_origin_changes_no_score():
    settings = PopularitySettings(0.1)
    baseline = Popularity(EVENTS, settings)
    for event in range(1, len(EVENTS)):
        baseline.learn(event)
        expected_I = reference.popularity(EVENTS, event, settings.half_life_hours)
        assert np.allclose(baseline.scores(event, ALL_I), expected_I, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_learning_at_once_or_step_by_step_is_the_same(name):
    at_once, stepwise = MAKERS[name](5.0), MAKERS[name](5.0)
    at_once.learn(100)
    for until in (1, 2, 50, 50, 100):
        stepwise.learn(until)
    assert np.array_equal(at_once.scores(100, ALL_I), stepwise.scores(100, ALL_I))


@pytest.mark.parametrize("name", MAKERS)
def test_the_future_changes_no_score(name):
    def score(events: Events):
        baseline = {
            "popularity": lambda: Popularity(events, PopularitySettings(5.0)),
            "cooccurrence": lambda: Cooccurrence(events, CooccurrenceSettings(5.0, 3)),
            "blend": lambda: Blend(events, BlendSettings(5.0, 3, 5.0, 2.0)),
        }[name]()
        baseline.learn(100)
        return baseline.scores(100, ALL_I)

    other_T = EVENTS.item_T.copy()
    other_T[100:] = EVENTS.item_T[100:][::-1]
    assert np.array_equal(score(EVENTS), score(replace(EVENTS, item_T=other_T)))


@dataclass(frozen=True)
class Hill:
    half_life_hours: float = 1.0
    last: int = 1


def test_climbing_ends_on_the_top_and_never_below_one_item():
    def height(at: Hill) -> float:
        return -((np.log2(at.half_life_hours) - 3) ** 2) - (at.last - 4) ** 2

    assert climb(height, Hill()) == Hill(pytest.approx(8.0), 4)
    assert climb(lambda at: -at.last, Hill(last=3)).last == 1


def test_tuning_sees_nothing_past_the_first_fifth():
    events = reference.stream(seed=6, events=1000)
    shuffled_T = events.item_T.copy()
    shuffled_T[200:] = np.random.default_rng(0).permutation(shuffled_T[200:])
    tuned = [
        tune(stream, None, Popularity, PopularitySettings(4.0), sample=100)
        for stream in (events, replace(events, item_T=shuffled_T))
    ]
    assert tuned[0] == tuned[1]
