"""What the gate lets through and what it holds, on a trainer that really learns."""

from dataclasses import replace

import pytest
import torch

from tests.trainer.rehearsal import GATE, Rehearsal, rings
from tests.trainer.workshop import START_MS
from trainer.fitting import Weights
from trainer.gate import Verdict
from trainer.quantization import coded, difference

EVENTS = 12_000
BAD = (7_000, 8_200)
"""Clicks that are poisoned: twenty minutes of them."""


def same(one: Verdict, other: Verdict) -> bool:
    return (one.held, one.metrics) == (other.held, other.metrics)


@pytest.fixture(scope="module")
def clean() -> Rehearsal:
    rehearsal = Rehearsal()
    rehearsal.run(rings(EVENTS).blocks())
    return rehearsal


def test_clean_versions_pass(clean: Rehearsal) -> None:
    assert {verdict.held for _, verdict in clean.verdicts} == {None}
    last = clean.verdicts[-1][1]
    assert abs(last.metrics["gate.taste"]) < 0.3
    assert last.metrics["gate.quantized_score"] > 0


def test_a_flipped_stream_is_held_and_the_hold_ends(clean: Rehearsal) -> None:
    poisoned = Rehearsal()
    poisoned.run(rings(EVENTS).flipped(*BAD).blocks())
    assert "" not in poisoned.held(BAD[0] + 200, BAD[1])
    assert set(poisoned.held(0, BAD[0])) == {""}
    assert poisoned.verdicts[-1][1].held is None
    assert poisoned.metrics.registry.get_sample_value(
        "freshet_versions_held_total", {"reason": "surprise"}
    )  # fmt: skip


def test_a_flood_of_bots_is_held_and_the_hold_ends() -> None:
    poisoned = Rehearsal()
    poisoned.run(rings(EVENTS).flooded(*BAD, bots=200).blocks())
    assert "" not in poisoned.held(BAD[0] + 200, BAD[1])
    assert set(poisoned.held(0, BAD[0])) == {""}
    assert poisoned.verdicts[-1][1].held is None


def test_slow_drift_is_seen_against_a_quarantine_ago_where_each_step_is_small() -> None:
    """Vectors that are turned a little at every block: no version is far from the one before."""
    rehearsal = Rehearsal(replace_bounds(alarm_loss=99.0, alarm_edge=99.0, alarm_gain=99.0))
    noise = torch.Generator().manual_seed(0)
    rows = slice(1, 31)

    def turn(at_ms: int) -> None:
        if at_ms > START_MS + 7_000_000:
            vectors_RD = rehearsal.state.items.vectors_RD
            vectors_RD[rows] += 0.3 * vectors_RD[rows].std() * torch.randn(30, 16, generator=noise)

    rehearsal.run(rings(10_000).blocks(), turn)
    reasons = [verdict.reason for _, verdict in rehearsal.verdicts]
    assert set(reasons[:55]) == {None}
    assert reasons[-1] in ("taste", "crowd")


def replace_bounds(**bounds: float):  # type: ignore[no-untyped-def]
    return GATE.model_copy(update={"taste": 0.3, "crowd": 0.3, "per_hour": 0.0, **bounds})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_held(clean: Rehearsal, value: float) -> None:
    assert clean.trials is not None
    dense = clean.dense
    dense["tokens.gap"][3, 3] = value
    verdict = clean.gate.judge(99, clean.trials, Weights(dense), {})
    assert verdict.reason == "broken"
    assert "tokens.gap" in (verdict.held or "")


def test_rows_that_are_not_finite_are_held(clean: Rehearsal) -> None:
    trials = clean.trials
    assert trials is not None
    vectors_KD = trials.questions.vectors_KD.clone()
    vectors_KD[0] = torch.nan
    broken = replace(trials, questions=replace(trials.questions, vectors_KD=vectors_KD))
    verdict = clean.gate.judge(99, broken, Weights(clean.dense), {"slots/item": "int8"})
    assert verdict.reason == "broken"


def test_the_tensor_that_hurts_most_gets_the_bits(clean: Rehearsal) -> None:
    """One input channel of a matrix dwarfs the others of its rows: its codes lose them."""
    assert clean.trials is not None
    dense = clean.dense
    matrices = [name for name, weight in dense.items() if weight.dim() == 2]
    worst = next(name for name in matrices if "layers.0" in name)
    dense[worst] = dense[worst].clone()
    dense[worst][:, 0] = 400 * dense[worst].abs().max()
    precision = dict.fromkeys([*matrices, "slots/item"], "int8")
    verdict = clean.gate.judge(99, clean.trials, Weights(dense), precision)
    raised = {name for name, kind in verdict.precision.items() if kind != "int8"}
    assert raised == {worst}
    assert verdict.precision[worst] == "fp16"
    assert verdict.metrics["gate.quantized_score"] <= GATE.quantized_score
    assert precision[worst] == "int8"


def test_what_is_too_coarse_in_four_bits_goes_up_step_by_step(clean: Rehearsal) -> None:
    assert clean.trials is not None
    gate = Rehearsal(GATE.model_copy(update={"quantized_score": 1e-4})).gate
    verdict = gate.judge(1, clean.trials, Weights(clean.dense), {"slots/item": "int4"})
    assert verdict.precision == {"slots/item": "fp16"}
    assert verdict.reason == "quantization"


def test_the_difference_is_that_of_what_servers_decode(clean: Rehearsal) -> None:
    assert clean.trials is not None
    scorer, recent = clean.gate._scorer, clean.trials.recent
    dense = clean.dense
    full = scorer.answer(recent, dense)
    far = []
    for precision in ("int4", "int8", "fp16", "fp32"):
        served = coded(recent, Weights(dense), {"slots/item": precision})
        far.append(difference(full, scorer.answer(served.questions, served.dense)).largest)
    assert far[0] > 4 * far[1] > 16 * far[2] > 0
    assert far[3] == 0


def test_a_restarted_gate_judges_as_one_that_went_on() -> None:
    """Both halves of its memory travel: trials of the open slice, alarm and anchors."""
    blocks = list(rings(8_500).flipped(7_300, 8_000).blocks())
    first = Rehearsal()
    middle = 112
    first.run(iter(blocks[:middle]))
    at_ms = blocks[middle - 1].watermark_ms
    first.judge(at_ms)
    assert first.trials is not None
    state = first.gate.state(first.trials, first.verdicts[-1][1])
    second = Rehearsal()
    second.state, second.teacher = first.state, first.teacher
    second.gate = type(first.gate)(GATE, first.state.learner, 5, second.metrics)
    second.gate.load(state)
    second.teacher.observers[:] = [second.gate.observe]
    second._cut_ms = first._cut_ms
    second.run(iter(blocks[middle:]))
    again = Rehearsal()
    again.run(iter(blocks[:middle]))
    again.judge(at_ms)
    again.run(iter(blocks[middle:]))
    expected = again.verdicts[len(first.verdicts) :]
    assert len(expected) == len(second.verdicts) > 5
    assert any(verdict.held for _, verdict in expected)
    for (_, one), (_, other) in zip(second.verdicts, expected, strict=True):
        assert same(one, other)


def test_a_release_begins_the_comparison_anew() -> None:
    poisoned = Rehearsal()
    poisoned.run(rings(BAD[1]).flipped(*BAD).blocks())
    at_ms, last = poisoned.verdicts[-1]
    assert last.held
    poisoned.gate.release()
    assert poisoned.judge(at_ms).held is None


def test_what_an_erased_user_did_is_in_no_trial() -> None:
    rehearsal = Rehearsal()
    rehearsal.run(rings(4_000).blocks())
    reservoir = rehearsal.gate._reservoir
    users = {int(u) for one in reservoir.closed for u in one.trials["user"]}
    gone = next(iter(users))
    rehearsal.gate.erase({gone})
    slices = [*reservoir.closed, *reservoir.opened()]
    assert gone not in {int(u) for one in slices for u in one.trials["user"]}
    rehearsal.run(rings(5_000).blocks())
