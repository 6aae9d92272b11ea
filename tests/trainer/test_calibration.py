"""Served chances are calibrated on what the heads predicted before they learned."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from service.histories.local import LocalHistories
from service.histories.settings import HistorySettings
from service.model.calibration import CALIBRATION
from service.model.ranker import Ranker
from service.settings import Settings
from service.versions import Snapshot
from tests.trainer.workshop import START_MS, Workshop, settings, told
from trainer.build import Plan
from trainer.calibration import BINS, HALF_LIFE, LOWEST, TRUST, WIDTH, Calibrator, Heard
from trainer.joining import Shown
from trainer.learner import Learner
from trainer.sampling import Sampling
from trainer.targets import TargetBatch, Targets

EVERYWHERE = torch.linspace(-30, 30, 4001)


def heard(logit_R: Tensor, label_R: Tensor, weight_R: Tensor | None = None) -> Heard:
    """Targets of one action type."""
    weight_R = torch.ones(len(logit_R)) if weight_R is None else weight_R
    columns = (logit_R.float(), label_R.float(), weight_R.float())
    return Heard(*(column[:, None] for column in columns))


def sums(most: float) -> st.SearchStrategy[np.ndarray]:  # type: ignore[type-arg]
    return arrays.arrays(np.float64, BINS, elements=st.floats(0, most))


@tried(derandomize=True, deadline=None, max_examples=200)
@given(sums(1e9), sums(1e9), sums(1.0))
def test_the_map_is_monotone_whatever_was_heard(
    weight_B: np.ndarray,  # type: ignore[type-arg]
    acted_B: np.ndarray,  # type: ignore[type-arg]
    share_B: np.ndarray,  # type: ignore[type-arg]
) -> None:
    calibrator = Calibrator(1)
    one = np.stack([weight_B, acted_B, weight_B * share_B])
    calibrator.load({"sums": torch.from_numpy(np.stack([one, one])[None])})
    calibration = calibrator.fitted()
    assert bool((calibration.at_AK.diff() > 0).all())
    x_N1 = torch.cat([EVERYWHERE, calibration.at_AK[0].float()]).sort().values[:, None]
    y_N1 = calibration(x_N1)
    assert bool(y_N1.isfinite().all())
    assert bool((y_N1.diff(dim=0) >= 0).all())


targets = st.lists(
    st.tuples(st.floats(-80, 80, width=32), st.booleans(), st.sampled_from([0.0, 1.0, 100.0])),
    min_size=1, max_size=40,
)  # fmt: skip


@tried(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(targets, max_size=4))
def test_so_it_is_after_any_targets(batches: list[list[tuple[float, bool, float]]]) -> None:
    calibrator = Calibrator(1)
    for batch in batches:
        calibrator.hear(heard(*(torch.tensor(column) for column in zip(*batch, strict=True))))
    y_N1 = calibrator.fitted()(EVERYWHERE[:, None])
    assert bool(y_N1.isfinite().all())
    assert bool((y_N1.diff(dim=0) >= 0).all())


def test_without_evidence_nothing_changes() -> None:
    calibrator, x_NA = Calibrator(2), EVERYWHERE[:, None].expand(-1, 2)
    assert torch.equal(calibrator.fitted()(x_NA), x_NA)
    logit_RA = torch.full((1000, 2), -3.0)
    only_first = torch.tensor([1.0, 0.0]).expand(1000, 2)
    calibrator.hear(Heard(logit_RA, only_first, only_first))
    y_NA = calibrator.fitted()(x_NA)
    assert torch.equal(y_NA[:, 1], x_NA[:, 1])
    assert not torch.equal(y_NA[:, 0], x_NA[:, 0])
    assert np.isnan(calibrator.errors()["raw"]).tolist() == [False, True]


def test_a_chance_goes_half_the_way_where_evidence_and_trust_weigh_alike() -> None:
    calibrator, logit = Calibrator(1), LOWEST + 19 * WIDTH + 0.1
    chance = 1 / (1 + np.exp(-logit))
    count = round(TRUST / (chance * (1 - chance)))
    acted_R = torch.arange(count) < 1.3 * chance * count
    calibrator.hear(heard(torch.full((count,), logit), acted_R))
    served = calibrator.fitted().chances(torch.tensor([[logit]])).item()
    assert served == pytest.approx((chance + float(acted_R.double().mean())) / 2, rel=0.005)


def test_of_what_is_right_already_next_to_nothing_changes() -> None:
    draw = torch.Generator().manual_seed(0)
    logit_R = torch.randn(400_000, generator=draw) - 3
    label_R = torch.rand(400_000, generator=draw) < torch.sigmoid(logit_R)
    calibrator = Calibrator(1)
    calibrator.hear(heard(logit_R, label_R))
    x_N1 = torch.linspace(-4.5, -1, 100)[:, None]
    torch.testing.assert_close(calibrator.fitted()(x_N1), x_N1, atol=0.1, rtol=0)


@pytest.mark.parametrize("keep", [1.0, 0.1])
def test_a_bent_stream_is_calibrated_after_it_was_heard(keep: float) -> None:
    """Heads that are too sure of themselves, and too high: the error of what is served is a small
    part of theirs, also where most negatives are left out."""
    draw, calibrator = torch.Generator().manual_seed(1), Calibrator(1)
    size, batches = 1000, 300
    for _ in range(batches):
        true_R = torch.randn(size, generator=draw) - 3
        label_R = torch.rand(size, generator=draw) < torch.sigmoid(true_R)
        kept_R = label_R | (torch.rand(size, generator=draw) < keep)
        weight_R = torch.where(label_R, 1.0, 1 / keep)
        calibrator.hear(heard(1.6 * true_R[kept_R] + 2.5, label_R[kept_R], weight_R[kept_R]))
    raw, served = (float(calibrator.errors()[name][0]) for name in ("raw", "served"))
    assert raw > 0.03
    assert served < 0.2 * raw
    x_N = torch.linspace(-4.5, -1.5, 50)
    found = calibrator.fitted()((1.6 * x_N + 2.5)[:, None])[:, 0]
    torch.testing.assert_close(found, x_N, atol=0.3, rtol=0)


def test_the_error_is_the_mean_distance_over_bins() -> None:
    calibrator = Calibrator(1)
    logit_R = torch.tensor([-2.2] * 300 + [0.1] * 100)
    label_R = torch.tensor([1] * 60 + [0] * 240 + [1] * 20 + [0] * 80)
    calibrator.hear(heard(logit_R, label_R))
    low, high = torch.sigmoid(torch.tensor([-2.2, 0.1])).tolist()
    expected = 0.75 * abs(0.2 - low) + 0.25 * abs(0.2 - high)
    assert calibrator.errors()["raw"][0] == pytest.approx(expected)
    assert calibrator.errors()["served"][0] == pytest.approx(expected)  # no map was there yet


def test_evidence_of_an_action_type_fades_by_its_own_actions() -> None:
    calibrator, one_RA = Calibrator(2), torch.ones(1, 2)
    calibrator.hear(Heard(-one_RA, one_RA, one_RA))
    before = calibrator.state()["sums"]
    first_RA = torch.tensor([1.0, 0.0]).expand(int(HALF_LIFE), 2)
    calibrator.hear(Heard(9 + 0 * first_RA, first_RA, 0 * first_RA))
    after = calibrator.state()["sums"]
    torch.testing.assert_close(after[0, 0, :, :-1], before[0, 0, :, :-1] / 2)
    torch.testing.assert_close(after[1], before[1])


LISTS, SIZE = 30, 12


def learner_of(**trainer: object) -> Learner:
    sections = settings(
        actions={"types": {"click": {}, "like": {}}}, trainer={"learning_rate": 0.05} | trainer
    )
    learner = Plan(Settings(sections)).fresh_state().learner
    keys = torch.arange(40)
    learner.items.admit(keys, torch.full_like(keys, START_MS))
    return learner


def batch_of(seed: int, keep: float = 1.0, late: bool = False) -> TargetBatch:
    draw, shown = np.random.default_rng(seed), []
    for number in range(LISTS):
        items = draw.permutation(40)[:SIZE]
        clicked = items[items < draw.integers(12)]
        acted = dict.fromkeys(clicked.tolist(), 1)
        shown.append(
            Shown(START_MS, 1, items.tolist(), 0, acted, key=LISTS * seed + number, late=late)
        )
    histories = LocalHistories(HistorySettings(capacity=64))
    ((batch,), _) = Targets(16, 2, Sampling(keep)).batches(shown, histories)
    return batch


def predicted(learner: Learner) -> Tensor:
    """The sum of raw chances that was heard, by action type."""
    return learner.calibrator.state()["sums"][:, 0, 2].sum(-1)


@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_targets_are_heard_as_they_were_before_anything_learned_from_them(keep: float) -> None:
    """Fails if a target is scored by weights that have learned from it."""
    learner = learner_of(keep_negatives=keep, position_bias=False)
    assert learner.learn_actions(batch_of(0, keep)).trained
    assert not predicted(learner).any()  # heads that begin know the rates of their first batch
    batch = batch_of(1, keep)
    faded_A = 0.5 ** (batch.label_RA.double().sum(0) / HALF_LIFE)
    for _ in range(3):
        held_out = (learner.chances(batch).double() * batch.weight_RA).sum(0)
        earlier = predicted(learner) * faded_A
        assert learner.learn_actions(batch).trained
        torch.testing.assert_close(predicted(learner), earlier + held_out, rtol=1e-5, atol=1e-5)
        after = (learner.chances(batch).double() * batch.weight_RA).sum(0)
        assert bool(((after - held_out).abs() > 1e-3 * held_out).all())  # which would be seen


def test_targets_are_heard_with_the_bias_of_their_positions() -> None:
    learner, batch = learner_of(), batch_of(1)
    learner.learn_actions(batch_of(0))
    with torch.no_grad():
        learner.positions.bias_AP[0] = torch.linspace(1, -9, 64)
    shown_P = learner.positions.with_shown(batch.shown_P)
    added_RA = learner.positions.logits(batch.position_R, shown_P).detach()
    expected = torch.sigmoid(learner.logits(batch) + added_RA).sum(0)
    learner.learn_actions(batch)
    torch.testing.assert_close(predicted(learner), expected.double(), rtol=1e-5, atol=1e-5)
    assert abs(float(added_RA.mean())) < 0.2 < float(added_RA.std())


def test_labels_stand_for_all_that_was_shown() -> None:
    """Kept negatives for those left out; late actions for negatives that were heard before."""
    whole, part = batch_of(3), batch_of(3, keep=0.5)
    assert whole.weight_RA.unique().tolist() == [1.0]
    assert part.weight_RA.unique().tolist() == [0.0, 1.0, 2.0]
    assert torch.equal(part.weight_RA[part.label_RA > 0], part.label_RA[part.label_RA > 0])
    assert torch.equal(part.label_RA.sum(0), whole.label_RA.sum(0))
    assert float(part.weight_RA.sum()) == pytest.approx(float(whole.weight_RA.sum()), rel=0.1)
    late = batch_of(3, keep=0.5, late=True)
    assert torch.equal(late.label_RA.sum(0), whole.label_RA.sum(0))
    assert not late.weight_RA.any()


def test_a_step_that_was_skipped_is_not_heard() -> None:
    learner = learner_of()
    for seed in range(2):
        learner.learn_actions(batch_of(seed))
    before = learner.calibrator.state()["sums"]
    assert before.any()
    with torch.no_grad():
        learner.network.actions.weight[0, 0] = torch.nan
    assert not learner.learn_actions(batch_of(2)).trained
    assert torch.equal(learner.calibrator.state()["sums"], before)


def test_a_checkpoint_keeps_the_sums_and_an_older_one_has_none() -> None:
    learner, other = learner_of(), Calibrator(2)
    for seed in range(2):
        learner.learn_actions(batch_of(seed))
    kept = learner.calibrator.state()
    other.load(kept)
    assert torch.equal(other.state()["sums"], kept["sums"])
    other.load({})
    assert torch.equal(other.state()["sums"], kept["sums"])
    learner.learn_actions(batch_of(2))
    assert torch.equal(other.state()["sums"], kept["sums"])  # a copy, both ways


def test_a_version_serves_the_map_that_its_checkpoint_says(workshop: Workshop) -> None:
    workshop.tell(told(900))
    trainer = workshop.train()
    teacher, number = trainer.teacher, workshop.versions.numbers()[-1]
    restored = workshop.restored().teacher.state.learner.calibrator
    names = list(teacher.types.types)
    described = teacher.state.learner.calibrator.fitted().described(names)
    assert restored.fitted().described(names) == described
    snapshot = Snapshot.read(workshop.versions, number)
    assert snapshot.model[CALIBRATION] == described
    x_NA = torch.linspace(-6, 2, 99)[:, None].expand(-1, len(names))
    served = Ranker(snapshot).model.calibration(x_NA)
    assert torch.equal(served, restored.fitted()(x_NA))
    assert not torch.equal(served[:, 0], x_NA[:, 0])
    errors = teacher.calibration_errors()
    assert {action for action, _ in errors} == set(names)
    metrics = workshop.versions.manifest(number).metrics
    told_of = {name: value for name, value in metrics.items() if name.startswith("calibration.")}
    assert told_of == {f"calibration.{a}.{chance}": e for (a, chance), e in errors.items()}
    gauge = trainer.metrics.calibration_error.labels("click", "served")
    assert gauge._value.get() == errors["click", "served"]


def test_a_version_without_action_heads_has_no_map(workshop: Workshop) -> None:
    story = told(200)
    story.payloads["impressions"].clear()
    workshop.tell(story)
    trainer, numbers = workshop.train(), workshop.versions.numbers()
    assert CALIBRATION not in Snapshot.read(workshop.versions, numbers[-1]).model
    assert trainer.teacher.calibration_errors() == {}
