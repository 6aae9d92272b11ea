"""Which events are asked, against which items, and what rank an answer gets."""

import numpy as np
import pytest

from benchmarks import reference
from benchmarks.protocol import Evaluation, Events
from benchmarks.protocol.evaluation import MISS, NOT_COUNTED

HOUR_MS = 3_600_000


def events_of(*rows: tuple[int, int, float]) -> Events:
    """Rows of user, item and hour; the numbers must appear in order."""
    users, items, hours = (np.array(column) for column in zip(*rows, strict=True))
    events = Events.of(users, items, (hours * HOUR_MS).astype(np.int64))
    assert events.item_T.tolist() == items.tolist()
    return events


def ranks_under(events: Events, active_ms: int | None, score_I: list[float]):
    """Plain and unseen ranks of every counted event under the same scores of items."""
    evaluation = Evaluation(events, active_ms)
    questions = evaluation.questions(0, len(events))
    scores_C = np.array(score_I, np.float32)[questions.candidates_C]
    evaluation.record("x", questions, np.tile(scores_C, (len(questions), 1)))
    ranks = evaluation.ranks("x")
    return ranks.plain_S.tolist(), ranks.unseen_S.tolist()


def test_fast_protocol_and_baselines_agree_with_the_reference():
    for seed in range(3):
        reference.check(seed)


def test_a_disagreement_is_reported_with_its_event(monkeypatch):
    monkeypatch.setattr(reference, "history", lambda events, event: [])
    with pytest.raises(reference.CheckFailed, match="event"):
        reference.check()


def test_only_events_of_known_users_are_asked():
    events = events_of((0, 0, 0), (1, 1, 1), (0, 2, 2), (2, 0, 3), (1, 0, 4))
    assert Evaluation(events, None).sample_S.tolist() == [2, 4]
    assert Evaluation(events, None).counted == 2


def test_ties_count_against_the_method():
    events = events_of((0, 0, 0), (1, 1, 1), (1, 2, 2), (0, 1, 3))
    plain, _ = ranks_under(events, None, [1, 1, 1])
    assert plain[-1] == 3, "a method that knows nothing ranks the truth last of all active items"


def test_a_truth_that_nobody_had_yet_is_a_miss_in_both_variants():
    events = events_of((0, 0, 0), (0, 1, 1))
    assert ranks_under(events, None, [0, 9]) == ([MISS], [MISS])


def test_an_item_is_active_up_to_and_including_the_last_millisecond_of_the_window():
    at_the_edge = events_of((0, 0, 0), (1, 1, 1), (1, 0, 24))
    past_it = events_of((0, 0, 0), (1, 1, 1), (1, 0, 24.001))
    assert ranks_under(at_the_edge, 24 * HOUR_MS, [2, 1])[0] == [1]
    assert ranks_under(past_it, 24 * HOUR_MS, [2, 1])[0] == [MISS]


def test_without_seen_items_rivals_leave_and_a_seen_truth_is_not_counted():
    events = events_of((0, 0, 0), (1, 1, 0), (0, 1, 1), (0, 0, 2))
    plain, unseen = ranks_under(events, None, [9, 5])
    assert plain == [2, 1]
    assert unseen == [1, NOT_COUNTED]


def test_a_seen_truth_that_is_no_longer_active_is_a_miss_but_not_counted_without_seen_items():
    events = events_of((0, 0, 0), (0, 0, 30))
    assert ranks_under(events, 24 * HOUR_MS, [1]) == ([MISS], [NOT_COUNTED])


def test_questions_are_the_same_in_any_batching_and_after_going_back():
    events = reference.stream(seed=5, events=300)
    evaluation = Evaluation(events, 8 * HOUR_MS)
    whole = evaluation.questions(0, 300)
    for start in (0, 37, 150, 299, 60):
        part = evaluation.questions(start, start + 50)
        for b, event in enumerate(part.events_B):
            row = whole.events_B.tolist().index(event)
            for mask in ("active_BC", "unseen_BC"):
                mine = set(part.candidates_C[getattr(part, mask)[b]].tolist())
                assert mine == set(whole.candidates_C[getattr(whole, mask)[row]].tolist())


def test_a_batch_without_a_sampled_event_is_empty_and_can_be_answered():
    events = events_of((0, 0, 0), (1, 1, 1), (0, 1, 2))
    evaluation = Evaluation(events, None)
    questions = evaluation.questions(0, 2)
    assert len(questions) == 0
    evaluation.record("x", questions, np.zeros((0, len(questions.candidates_C)), np.float32))


def test_the_sample_is_seeded_and_spread_over_the_whole_stream():
    events = reference.stream(seed=2, events=4000)
    sample_S = Evaluation(events, None, sample=400, seed=3).sample_S
    assert np.array_equal(sample_S, Evaluation(events, None, sample=400, seed=3).sample_S)
    assert not np.array_equal(sample_S, Evaluation(events, None, sample=400, seed=4).sample_S)
    assert (np.diff(sample_S) > 0).all()
    assert all(abs(n - 80) <= 1 for n in np.bincount(sample_S // 800)), "each fifth gets its share"


def test_a_stream_in_which_no_event_counts_is_refused():
    with pytest.raises(ValueError, match="no event counts"):
        Evaluation(events_of((0, 0, 0), (1, 0, 1)), None)


def test_answers_of_another_shape_nan_and_silence_are_refused():
    events = events_of((0, 0, 0), (0, 0, 1))
    evaluation = Evaluation(events, None)
    questions = evaluation.questions(0, 2)
    with pytest.raises(ValueError, match=r"bad answered \(1, 2\) scores, asked were \(1, 1\)"):
        evaluation.record("bad", questions, np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="bad scored NaN"):
        evaluation.record("bad", questions, np.full((1, 1), np.nan, np.float32))
    with pytest.raises(ValueError, match="bad left 1 of 1 questions unanswered"):
        evaluation.ranks("bad")
