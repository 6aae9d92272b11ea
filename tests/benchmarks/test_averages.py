"""From ranks to figures."""

import numpy as np
import pytest

from benchmarks.protocol import Evaluation, Events, Part, averages_by_day, averages_of

DAY_MS = 86_400_000


def answered(scores_of_truth: list[float]) -> Evaluation:
    """One user, two items that always compete, one event a day; the truth gets these scores.

    Scores above 0 rank first, others second. The first two events make both items active.
    """
    size = len(scores_of_truth) + 2
    item_T = np.arange(size) % 2
    events = Events.of(np.zeros(size, np.int64), item_T, np.arange(size) * DAY_MS)
    evaluation = Evaluation(events, None)
    evaluation.record("x", evaluation.questions(1, 2), np.zeros((1, 1)))
    for event, score in enumerate(scores_of_truth, 2):
        questions = evaluation.questions(event, event + 1)
        is_truth_C = questions.candidates_C == item_T[event]
        evaluation.record("x", questions, np.where(is_truth_C, score, 0.0)[None])
    return evaluation


def test_metrics_of_known_ranks():
    averages = averages_of(answered([1, -1, 1, -1]), "x", Part(skip=0.3))
    assert averages["hr_at_10"].value == 1
    assert averages["mrr_at_10"].value == pytest.approx((1 + 1 / 2) / 2)
    assert averages["ndcg_at_10"].value == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert averages["mrr_at_10"].events == 4


def test_the_interval_is_that_of_a_mean():
    mrr = averages_of(answered([1, -1] * 50), "x", Part(skip=0.019))["mrr_at_10"]
    margin = 1.96 * 0.25 / np.sqrt(100)
    assert mrr.high - mrr.value == pytest.approx(margin, rel=1e-3)
    assert mrr.value - mrr.low == pytest.approx(margin, rel=1e-3)


def test_a_part_begins_at_a_share_of_all_events_not_of_the_sampled_ones():
    evaluation = answered([1] * 8)
    assert averages_of(evaluation, "x", Part(skip=0.2))["hr_at_10"].events == 8
    assert averages_of(evaluation, "x", Part(skip=0.5))["hr_at_10"].events == 5


def test_a_miss_earns_nothing():
    averages = averages_of(answered([]), "x", Part(skip=0.0))
    assert {name: a.value for name, a in averages.items()} == dict.fromkeys(averages, 0.0)


def test_days_are_utc_dates_in_order():
    days = averages_by_day(answered([1, -1]), "x")
    assert list(days) == ["1970-01-02", "1970-01-03", "1970-01-04"]
    assert [day["mrr_at_10"].value for day in days.values()] == [0, 1, 0.5]


def test_events_left_out_of_the_unseen_variant_are_in_no_average_and_no_day():
    evaluation = answered([1, -1])
    unseen = averages_of(evaluation, "x", Part(skip=0.3, unseen=True))
    assert unseen["hr_at_10"].events == 0
    assert np.isnan(unseen["hr_at_10"].value)
    assert list(averages_by_day(evaluation, "x", unseen=True)) == ["1970-01-02"]
