"""Draws of scores have the mean and the covariance that the posterior of the heads gives them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.action_types import ActionType, ActionTypes
from service.draws import Draw
from service.errors import ModelMismatch
from service.histories.local import Histories
from service.model.posterior import DRAWS, FACTOR, Posterior
from service.model.ranker import Ranker, Request
from service.versions import Snapshot
from tests.service.model.conftest import NOW_MS

RankerOf = Callable[..., Ranker]
SnapshotOf = Callable[..., Snapshot]
HistoryOf = Callable[..., Histories]
DIM, KEYS = 16, np.arange(98, 130)
TYPES = len(ActionTypes().types)


def precisions(types: int, dim: int, seed: int = 0) -> Any:
    """Matrices [A, Z, Z] as evidence makes them."""
    z = np.random.default_rng(seed).standard_normal((types, 300, dim + 1))
    z[:, :, -1] = 1
    return np.einsum("arz,ary->azy", z * 0.05, z) + 2 * np.eye(dim + 1)


def factor(types: int = TYPES, dim: int = DIM) -> Tensor:
    return torch.from_numpy(np.linalg.cholesky(precisions(types, dim))).float()


def test_scores_are_drawn_with_the_covariance_of_the_heads() -> None:
    weights, scale, seeds = np.array([1.0, 0.0, -0.5]), 0.7, 80
    posterior = Posterior(factor(3, 4), torch.from_numpy(weights).float())
    make = np.random.default_rng(1)
    score_C, inputs_CD = make.standard_normal(6), make.standard_normal((6, 4))
    inputs = [torch.from_numpy(one).float() for one in (score_C, inputs_CD)]
    drawn = [posterior.explored(*inputs, Draw(scale, seed)) for seed in range(seeds)]
    score_MC = torch.cat([one.score_MC for one in drawn]).double().numpy()
    z_CZ = np.hstack([inputs_CD, np.ones((6, 1))])
    inverse = [w**2 * np.linalg.inv(a) for w, a in zip(weights, precisions(3, 4), strict=True)]
    expected = scale**2 * z_CZ @ sum(inverse) @ z_CZ.T
    variance, count = np.diag(expected), len(score_MC)
    assert count == seeds * DRAWS
    assert np.abs(score_MC.mean(0) - score_C).max() < 4 * np.sqrt(variance.max() / count)
    error = np.sqrt((np.outer(variance, variance) + expected**2) / count)
    assert (np.abs(np.cov(score_MC.T) - expected) < 4 * error).all()
    # And so is the draw that a list is made by, which the others do not know.
    moved_SC = torch.stack([one.moved_C for one in drawn]).double().numpy()
    assert (np.abs(moved_SC.mean(0)) < 4 * np.sqrt(variance / seeds)).all()
    assert moved_SC.var(0) / variance == pytest.approx(np.ones(6), abs=4 * np.sqrt(2 / seeds))
    other_SC = np.stack([one.score_MC[0].numpy() for one in drawn]) - score_C
    alike = np.mean(moved_SC * other_SC, 0) / variance
    assert (np.abs(alike) < 4 / np.sqrt(seeds)).all()


def test_a_seed_draws_the_same_and_the_scale_is_a_factor() -> None:
    posterior, score_C = Posterior(factor(), torch.ones(TYPES)), torch.zeros(5)
    inputs_CD = torch.randn(5, DIM, generator=torch.Generator().manual_seed(2))

    def moved(scale: float, seed: int) -> Tensor:
        return posterior.explored(score_C, inputs_CD, Draw(scale, seed)).moved_C

    assert torch.equal(moved(1.0, 3), moved(1.0, 3))
    assert not torch.equal(moved(1.0, 3), moved(1.0, 4))
    assert torch.equal(moved(0.5, 3), moved(1.0, 3) / 2)


def test_heads_that_weigh_nothing_move_nothing() -> None:
    posterior = Posterior(factor(), torch.zeros(TYPES))
    explored = posterior.explored(torch.arange(4.0), torch.ones(4, DIM), Draw(1.0, 0))
    assert not explored.moved_C.any()
    assert torch.equal(explored.score_MC, torch.arange(4.0).expand(DRAWS, 4))


def explored_by(ranker: Ranker, history: Histories, draw: Draw | None) -> Any:
    (scores,) = ranker.rank_all([Request(history, KEYS, NOW_MS, draw=draw)])
    return scores


@pytest.mark.parametrize("model", [{}, {"layer": "production", "weights": "softmax"}])
def test_a_ranking_draws_scores_and_nothing_else(
    snapshot_of: SnapshotOf, history_of: HistoryOf, model: dict[str, Any]
) -> None:
    snapshot, history = snapshot_of(**model), history_of(9)
    ranker = Ranker(replace(snapshot, dense=snapshot.dense | {FACTOR: factor()}))
    plain, drawn = (explored_by(ranker, history, draw) for draw in (None, Draw(0.8, 5)))
    assert plain.explored is None
    assert torch.equal(plain.next_item_C, drawn.next_item_C)
    for name, chance_C in plain.actions.items():
        assert torch.equal(chance_C, drawn.actions[name])
    assert torch.equal(drawn.score_C, plain.score_C + drawn.explored.moved_C)
    assert bool((drawn.explored.moved_C != 0).all())
    # An unknown item reads the unknown row, and two of them are as uncertain.
    unknown_U = np.flatnonzero(KEYS < 100)
    assert len(drawn.explored.moved_C[unknown_U].unique()) == 1


def test_without_evidence_or_heads_scores_are_plain(
    snapshot_of: SnapshotOf, history_of: HistoryOf
) -> None:
    for heads, beside in ((True, {}), (False, {FACTOR: factor()})):
        snapshot = snapshot_of(action_heads=heads)
        ranker = Ranker(replace(snapshot, dense=snapshot.dense | beside))
        plain, drawn = (explored_by(ranker, history_of(3), one) for one in (None, Draw(1.0, 5)))
        assert drawn.explored is None
        assert torch.equal(plain.score_C, drawn.score_C)


def test_a_delta_without_weights_keeps_what_is_known_and_heads_may_weigh_more(
    catalogue_of: Callable[..., Any],
) -> None:
    catalogue = catalogue_of()
    catalogue.dense[FACTOR] = factor()
    ranker = Ranker(catalogue.base(40))

    def moved() -> Tensor:
        posterior, inputs_CD = ranker.model.posterior, torch.eye(DIM)
        assert posterior is not None
        return posterior.explored(torch.zeros(DIM), inputs_CD, Draw(1.0, 5)).moved_C

    def step(**changes: Any) -> None:
        ranker.apply(ranker.prepare(replace(catalogue.delta(0, 0, 0), dense={}, **changes)))

    before_C = moved()
    step()
    assert torch.equal(moved(), before_C)
    types = {n: ActionType(weight=2 * kind.weight) for n, kind in ActionTypes().types.items()}
    step(model=catalogue.model | {"actions": ActionTypes(types=types).described()})
    torch.testing.assert_close(moved(), 2 * before_C)


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (factor()[:2], "there are 5 action types"),
        (factor()[:, :5], "there are 5 action types"),
        (factor(dim=8), "heads 8 wide, dim is 16"),
        (-factor(), "diagonal that is not positive"),
    ],
)
def test_what_is_no_factor_is_refused(snapshot_of: SnapshotOf, damaged: Tensor, said: str) -> None:
    snapshot = snapshot_of()
    with pytest.raises(ModelMismatch, match=said):
        Ranker(replace(snapshot, dense=snapshot.dense | {FACTOR: damaged}))
