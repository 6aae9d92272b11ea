"""What is known of the heads is the Hessian of their loss, and what servers draw from follows."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian

from service.model.posterior import FACTOR
from service.model.ranker import Ranker
from service.versions import Checkpoint, Manifest, Snapshot
from tests.trainer.test_learner import bits, fresh, poison_row, targets
from tests.trainer.workshop import Workshop, settings, told
from trainer.folding import folded
from trainer.information import SUMS, Information, factor_of
from trainer.objective import action_loss
from trainer.state import State, part_of

EXPLORING = {"trainer": {"exploration": True, "position_bias": False, "keep_negatives": 0.4}}
CPU = torch.device("cpu")


def sums(state: State) -> Tensor:
    assert state.learner.information is not None
    return state.learner.information.state()[SUMS]


def covariance(factor_AZZ: Tensor) -> Any:
    """Of the first head's weights and bias."""
    a_ZZ = factor_AZZ[0].double().numpy()
    return np.linalg.inv(a_ZZ @ a_ZZ.T)


def test_it_grows_by_the_hessian_of_the_loss_that_was_learned() -> None:
    """Of all action types, with negatives left out: what a batch counts, and no more."""
    state, read = fresh(**EXPLORING), []
    heads = state.learner.network.actions
    heads.register_forward_hook(lambda _module, inputs, out: read.append((inputs[0], out)))
    batch, expected = targets(), torch.zeros(5, 17, 17, dtype=torch.float64)
    batch.counted_RA[1, 0] = 0.0  # as where a late click corrects a negative
    for _ in range(3):
        read.clear()
        assert state.learner.learn_actions(batch).trained
        ((inputs_RD, logits_RA),) = read
        z_RZ = nn.functional.pad(inputs_RD.detach(), (0, 1), value=1.0).double()
        offset_RA = logits_RA.detach().double() + np.log(1 / 0.4)
        counted_RA, label_RA = batch.counted_RA.double(), batch.label_RA.double()
        terms = (counted_RA + label_RA > 0).sum()

        def loss(moved_AZ: Tensor) -> Tensor:
            moved_RA = offset_RA + z_RZ @ moved_AZ.T  # noqa: B023
            return terms * action_loss(moved_RA, label_RA, counted_RA, terms == 0)  # noqa: B023

        found = hessian(loss, torch.zeros(5, 17, dtype=torch.float64))
        expected = expected * 0.5 ** (len(z_RZ) / 100_000)
        expected += torch.stack([found[a, :, a] for a in range(5)])
        torch.testing.assert_close(sums(state), expected, rtol=1e-5, atol=1e-7)


def test_the_posterior_is_that_of_bayesian_logistic_regression() -> None:
    """Against the exact one, on a grid: its covariance is what Laplace's approximation has at the
    likeliest weights."""
    make, prior, count = np.random.default_rng(0), 1.5, 600
    z_RZ = np.stack([make.standard_normal(count), np.ones(count)], 1)
    acted_R = make.random(count) < 1 / (1 + np.exp(-z_RZ @ np.array([0.8, -0.5])))
    axis = np.linspace(-2, 2, 401)
    w_GZ = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    logit_RG = z_RZ @ w_GZ.T
    log_G = (acted_R[:, None] * logit_RG - np.logaddexp(0, logit_RG)).sum(0)
    log_G -= (w_GZ**2).sum(1) * 2 / prior**2 / 2  # of a weight prior / sqrt(Z)
    chance_G = np.exp(log_G - log_G.max())
    mean_Z = np.average(w_GZ, axis=0, weights=chance_G)
    exact_ZZ = np.cov(w_GZ.T, aweights=chance_G)
    information = Information(nn.Linear(1, 1), 1e12, CPU)
    logits_R1 = torch.from_numpy(z_RZ @ mean_Z).float()[:, None]
    information.add(torch.from_numpy(z_RZ[:, :1]).float(), logits_R1, torch.ones(count, 1))
    found_ZZ = covariance(factor_of(information.state(), prior)[FACTOR])
    size_ZZ = np.sqrt(np.outer(np.diag(exact_ZZ), np.diag(exact_ZZ)))
    assert np.abs(found_ZZ - exact_ZZ).max() < 0.03 * size_ZZ.max()


def test_nine_intervals_in_ten_hold_the_truth() -> None:
    """Over worlds whose weights are drawn from the prior, around the likeliest weights of each."""
    make, prior, count, worlds, hits = np.random.default_rng(3), 1.5, 150, 300, 0
    precision = 5 / prior**2
    for _ in range(worlds):
        z_RZ = np.hstack([make.standard_normal((count, 4)), np.ones((count, 1))])
        truth_Z, w_Z = make.standard_normal(5) / np.sqrt(precision), np.zeros(5)
        acted_R = make.random(count) < 1 / (1 + np.exp(-z_RZ @ truth_Z))
        for _ in range(12):  # Newton's
            chance_R = 1 / (1 + np.exp(-z_RZ @ w_Z))
            slope_Z = z_RZ.T @ (acted_R - chance_R) - precision * w_Z
            bend_ZZ = (z_RZ.T * chance_R * (1 - chance_R)) @ z_RZ + precision * np.eye(5)
            w_Z = w_Z + np.linalg.solve(bend_ZZ, slope_Z)
        information = Information(nn.Linear(4, 1), 1e12, CPU)
        logits_R1 = torch.from_numpy(z_RZ @ w_Z).float()[:, None]
        information.add(torch.from_numpy(z_RZ[:, :4]).float(), logits_R1, torch.ones(count, 1))
        found_ZZ = covariance(factor_of(information.state(), prior)[FACTOR])
        z_Z = np.append(make.standard_normal(4), 1)
        hits += abs(z_Z @ (truth_Z - w_Z)) < 1.645 * np.sqrt(z_Z @ found_ZZ @ z_Z)
    assert 0.85 < hits / worlds < 0.95


def test_without_evidence_log_odds_have_the_deviation_of_the_prior() -> None:
    information = Information(nn.Linear(8, 2), 100.0, CPU)
    found_ZZ = covariance(factor_of(information.state(), 0.7)[FACTOR])
    z_Z = np.append(np.tile([1.0, -1.0], 4), 1.0)  # as a norm leaves them
    assert np.sqrt(z_Z @ found_ZZ @ z_Z) == pytest.approx(0.7)


def test_evidence_fades_by_shown_items_and_makes_sure_until_it_does() -> None:
    make = torch.Generator().manual_seed(0)

    def deviation(information: Information) -> float:
        found_ZZ = covariance(factor_of(information.state(), 1.0)[FACTOR])
        return float(np.sqrt(np.trace(found_ZZ)))

    long, short = (Information(nn.Linear(8, 1), half, CPU) for half in (1e9, 200.0))
    found: list[float] = []
    for _ in range(6):
        inputs_RD = torch.randn(400, 8, generator=make)
        for one in (long, short):
            one.add(inputs_RD, torch.zeros(400, 1), torch.ones(400, 1))
        found.append(deviation(long))
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.45 * found[0]  # 1 / sqrt(6)
    # Each batch of 400 leaves a quarter of what was there: 4 / 3 batches in all.
    assert deviation(short) == pytest.approx(found[0] * np.sqrt(3 / 4), rel=0.1)
    before, rows = short.state()[SUMS], torch.zeros(200, 8)
    short.add(rows, torch.zeros(200, 1), torch.zeros(200, 1))
    assert torch.equal(short.state()[SUMS], before / 2)


def test_a_step_that_is_skipped_leaves_nothing() -> None:
    state = fresh(**EXPLORING)
    assert state.learner.learn_actions(targets()).trained
    before = bits(state)
    poison_row(state, float("nan"))
    assert not state.learner.learn_actions(targets()).trained
    assert bits(state)["information/sums"] == before["information/sums"]


def test_it_changes_nothing_that_is_learned() -> None:
    plain, knowing = fresh(), fresh(trainer={"exploration": True})
    for state in (plain, knowing):
        for _ in range(3):
            assert state.learner.learn_actions(targets()).trained
    found = bits(knowing)
    assert sums(knowing).any()
    del found["information/sums"]
    assert found == bits(plain)


def newest(workshop: Workshop) -> tuple[Manifest, Snapshot]:
    number = workshop.versions.numbers()[-1]
    return workshop.versions.manifest(number), Snapshot.read(workshop.versions, number)


def test_every_version_with_new_weights_says_how_sure_they_are(workshop: Workshop) -> None:
    workshop.sections = settings(
        trainer={"exploration": True, "publish_seconds": 20, "dense_seconds": 50,
                 "keep_versions": 64, "base_every": 5},
    )  # fmt: skip
    workshop.tell(told(700))
    for blocks in (4, None):
        workshop.train(stop_after=blocks)
    written, waited = [], 0
    for number in workshop.versions.numbers():
        manifest = workshop.versions.manifest(number)
        name = manifest.step or manifest.snapshot[-1]
        file = Snapshot.read_file(workshop.versions, manifest, name)
        assert bool(file.dense) is (FACTOR in file.dense)
        waited += not file.dense
        if file.dense:
            state = folded(Checkpoint.chain(workshop.versions, manifest))
            expected = factor_of(part_of(state, "information"), 1.0)[FACTOR]
            assert torch.equal(file.dense[FACTOR], expected)
            written.append(expected)
        Ranker(Snapshot.read(workshop.versions, number)).warm()
    assert waited > 3
    assert len(written) > 2
    assert not torch.equal(written[-1], written[1])
    assert FACTOR not in newest(workshop)[0].precision


def test_it_is_switched_on_and_off_between_two_starts(workshop: Workshop) -> None:
    exploring = settings(trainer={"exploration": True})
    workshop.tell(told(900))
    for blocks, sections, there in ((4, settings(), False), (4, exploring, True),
                                    (4, settings(), False)):  # fmt: skip
        workshop.sections = sections
        workshop.train(stop_after=blocks)
        manifest, snapshot = newest(workshop)
        assert (FACTOR in snapshot.dense) is there
        tensors = folded(Checkpoint.chain(workshop.versions, manifest))
        assert ("information/sums" in tensors) is there
        assert (Ranker(snapshot).model.posterior is not None) is there
        assert workshop.digest() == workshop.digest(workshop.restored())


def test_of_an_action_type_that_is_new_nothing_is_known(workshop: Workshop) -> None:
    kinds: dict[str, Any] = {"click": {}, "hide": {"positive": False}}
    workshop.sections = settings(
        actions={"types": kinds}, trainer={"exploration": True, "publish_seconds": 1e9}
    )
    workshop.tell(told(400))
    before = sums(workshop.train(stop_after=5).teacher.state)
    workshop.sections = workshop.sections | {"actions": {"types": kinds | {"share": {}}}}
    after = sums(workshop.restored().teacher.state)
    assert before[0].any()
    assert torch.equal(after[:2], before)
    assert not after[2].any()
    workshop.train()
    assert newest(workshop)[1].dense[FACTOR].shape == (3, 17, 17)  # type: ignore[union-attr]
