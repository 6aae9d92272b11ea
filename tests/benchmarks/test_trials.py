"""Trials: each runs once, in whatever order, and what is kept is not repeated."""

import json

import pytest

from benchmarks import trials


def squared(trial):
    if trial["n"] == 13:
        raise ValueError("thirteen")
    return {"square": trial["n"] ** 2}


def refused(trial):
    raise AssertionError(f"{trial} was to be known")


def test_results_come_in_the_order_of_their_trials_and_are_kept(tmp_path):
    kept = tmp_path / "results.jsonl"
    asked = [{"n": n} for n in (3, 1, 2)]
    wanted = [{"square": 9}, {"square": 1}, {"square": 4}]
    assert trials.outcomes(asked, squared, 1, kept) == wanted
    assert trials.outcomes(asked[::-1], refused, 1, kept) == wanted[::-1]
    assert len(kept.read_text().splitlines()) == 3


def test_what_was_finished_before_a_failure_is_kept(tmp_path):
    kept = tmp_path / "results.jsonl"
    with pytest.raises(ValueError, match="thirteen"):
        trials.outcomes([{"n": 2}, {"n": 13}], squared, 1, kept)
    assert [json.loads(line)["result"] for line in kept.read_text().splitlines()] == [{"square": 4}]


def test_a_line_that_was_cut_off_is_tried_again(tmp_path):
    kept = tmp_path / "results.jsonl"
    trials.outcomes([{"n": 2}, {"n": 3}], squared, 1, kept)
    kept.write_text(kept.read_text()[:-4])
    assert trials.outcomes([{"n": 2}, {"n": 3}], squared, 1, kept) == [{"square": 4}, {"square": 9}]
    assert len([json.loads(line) for line in kept.read_text().splitlines()]) == 2


def test_several_at_once_run_in_processes_of_their_own(tmp_path):
    asked = [{"n": n} for n in range(3)]
    found = trials.outcomes(asked, squared, 2, None)
    assert [result["square"] for result in found] == [0, 1, 4]
