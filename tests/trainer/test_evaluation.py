"""Hit rates against a naive ranking."""

import threading

import numpy as np
import pytest
import torch

from tests.trainer.workshop import Workshop, settings, told
from trainer.evaluation import ACTIVE_MS, Evaluation
from trainer.teaching import EVALUATE_EVERY, Scoring


class Ranked:
    """Stands in the learner's place: scores are given, so that ties and misses can be made."""

    def __init__(self, scores_R: list[float], popular_R: list[float]) -> None:
        self.scores_R, self.popularity = torch.tensor(scores_R), self
        self.popular_R, self.device = torch.tensor(popular_R), torch.device("cpu")

    def scores(self, scored: object, few: np.ndarray, rows: np.ndarray, now_ms: int) -> object:
        return self.scores_R[rows].expand(len(few), -1)

    def counts(self, rows: torch.Tensor, now_ms: int) -> torch.Tensor:
        return self.popular_R[rows][:, None]


def hit(scores_R: list[float], truth: int, active: list[int] | None = None) -> float:
    evaluation = Evaluation(Ranked(scores_R, scores_R), 1)  # type: ignore[arg-type]
    rows = np.array(range(1, len(scores_R)) if active is None else active)
    evaluation.observe(rows, np.full(len(rows), 10**9))
    evaluation.score(None, np.array([truth]), 10**9)  # type: ignore[arg-type]
    return evaluation.hit_rates()["online"]


def test_the_tenth_is_a_hit_and_the_eleventh_is_not() -> None:
    scores = [0.0, *range(30, 0, -1)]
    assert hit(scores, truth=10) == 1
    assert hit(scores, truth=11) == 0


def test_ties_count_against_the_model() -> None:
    assert hit([0.0, *[1.0] * 10], truth=3) == 1
    assert hit([0.0, *[1.0] * 11], truth=3) == 0


def test_a_true_item_that_is_not_active_is_a_miss() -> None:
    assert hit([0.0, 1.0, 2.0, 3.0], truth=3, active=[1, 2]) == 0
    assert hit([0.0, 1.0, 2.0, 3.0], truth=9, active=[1, 2]) == 0


def test_the_unknown_row_is_no_item() -> None:
    assert hit([9.0, 1.0, 2.0], truth=0, active=[0, 1, 2]) == 0


def test_a_score_that_is_not_a_number_is_a_miss() -> None:
    assert hit([0.0, *[float("nan")] * 20], truth=3) == 0


def test_an_item_is_active_for_a_day() -> None:
    evaluation = Evaluation(Ranked([0.0, 1.0, 2.0], [0.0] * 3), 1)  # type: ignore[arg-type]
    evaluation.observe(np.array([1, 2]), np.array([0, 1000]))
    for now_ms, hits in [(ACTIVE_MS - 1, [1]), (ACTIVE_MS, [1, 0])]:
        evaluation.score(None, np.array([1]), now_ms)  # type: ignore[arg-type]
        assert evaluation.hit_rates()["online"] == np.mean(hits)


def test_a_freed_row_is_not_active() -> None:
    evaluation = Evaluation(Ranked([0.0, 1.0, 2.0], [0.0] * 3), 1)  # type: ignore[arg-type]
    evaluation.observe(np.array([1, 2]), np.array([0, 0]))
    evaluation.forget(np.array([2, 700]))
    evaluation.score(None, np.array([2]), 0)  # type: ignore[arg-type]
    assert evaluation.hit_rates() == {"online": 0, "popularity": 0}


def test_nothing_is_scored_before_anything_was_learned_or_without_rows() -> None:
    evaluation = Evaluation(Ranked([0.0, 1.0], [0.0] * 2), 0)  # type: ignore[arg-type]
    evaluation.score(None, np.array([1]), 0)  # type: ignore[arg-type]
    evaluation.observe(np.array([1]), np.array([0]))
    evaluation.score(None, np.array([1]), 0)  # type: ignore[arg-type]
    assert evaluation.hit_rates() == {}


def test_hit_rates_of_a_real_stream_are_those_of_a_naive_ranking(workshop: Workshop) -> None:
    """Every active item against every true item, one comparison at a time."""
    workshop.sections = settings(trainer={"evaluate_rows": 10_000})
    workshop.tell(told(500, items=30))
    last_ms: dict[int, int] = {}
    hits: list[bool] = []
    learned: list[Scoring] = []

    def rank(scoring: Scoring) -> None:
        if learned and learned[-1].accepted is not scoring.accepted:
            for one in learned:
                at_ms_Q = one.accepted.events.at_ms_T[one.scored.batch.event_Q.numpy()]
                for row, at_ms in zip(one.truth_Q.tolist(), at_ms_Q.tolist(), strict=True):
                    last_ms[row] = max(at_ms, last_ms.get(row, 0))
            learned.clear()
        learned.append(scoring)
        rows = sorted(r for r, ms in last_ms.items() if ms > scoring.now_ms - ACTIVE_MS)
        if rows and trainer.teacher.state.block % EVALUATE_EVERY == 0:
            asked = np.arange(len(scoring.truth_Q))
            scores_QA = learner.scores(scoring.scored, asked, np.array(rows), scoring.now_ms)
            for truth, scores_A in zip(scoring.truth_Q.tolist(), scores_QA.tolist(), strict=True):
                by_row = dict(zip(rows, scores_A, strict=True))
                above = sum(score >= by_row[truth] for score in scores_A) if truth in by_row else 99
                hits.append(above <= 10)

    with workshop.training() as trainer:
        learner = trainer.teacher.state.learner
        trainer.teacher.observers.append(rank)
        trainer.run(threading.Event(), lambda: True)
    assert len(hits) > 50
    assert trainer.teacher.evaluation.hit_rates()["online"] == pytest.approx(np.mean(hits))
