"""A bandit that is planted: what is shown decides what is learned, from one version to the next."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from service.draws import Draw
from service.histories.local import LocalHistories
from service.histories.settings import HistorySettings
from service.model.ranker import Ranker, Request, described
from service.settings import Settings
from trainer.build import Plan
from trainer.joining import Shown
from trainer.snapshots import snapshot_of
from trainer.state import State
from trainer.targets import Targets

START_MS = 1_732_096_800_000
ITEMS, USERS, ROUNDS, SEEDS = 30, 12, 60, 5
SECTIONS: dict[str, Any] = {
    "actions": {"types": {"click": {}}, "next_item_weight": 0.0},
    "model": {"dim": 16, "layers": 1, "heads": 1, "qk_width": 8, "v_width": 8, "window": 16,
              "categories": 0},
    "histories": {"capacity": 64},
    # Items that differ from the beginning: what is uncertain is what they are worth.
    "store": {"item": {"init_scale": 1.0, "learning_rate": 1e-6}},
    "trainer": {"exploration": True, "learning_rate": 0.02, "position_bias": False},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh() -> State:
    state = Plan(Settings(SECTIONS)).fresh_state()
    keys = torch.arange(1, 1 + ITEMS)
    state.items.admit(keys, torch.full_like(keys, START_MS))
    return state


def regret(explore: float, seed: int) -> list[float]:
    """Of each round: what the shown items were worth less than the best, a user on average."""
    make, state = np.random.default_rng(seed), fresh()
    worth_I = make.permutation(np.linspace(0.02, 0.6, ITEMS))
    plan, histories = Plan(Settings(SECTIONS)), LocalHistories(HistorySettings(capacity=64))
    keys, targets, lost = np.arange(1, 1 + ITEMS), Targets(16, 1), []
    told = described(plan.model, plan.types, True)
    # What was shown before anybody chose, none of the better half: so the heads begin.
    first = make.choice(np.argsort(worth_I)[: ITEMS // 2], 2, replace=False)
    shown_U = np.resize(keys[first], USERS)
    for number in range(ROUNDS):
        clicked_U = make.random(USERS) < worth_I[shown_U - 1]
        lists = [
            Shown(START_MS, user, [int(item)], 0, {int(item): 1} if clicked else {}, key=user)
            for user, (item, clicked) in enumerate(zip(shown_U, clicked_U, strict=True))
        ]
        (batch,), _ = targets.batches(lists, histories)
        assert state.learner.learn_actions(batch).trained
        ranker = Ranker(snapshot_of(state, number, START_MS, told))
        requests = [
            Request(
                histories.read(np.array([user]), 17), keys, START_MS,
                draw=Draw(explore, 10_000 * seed + 100 * number + user) if explore else None,
            )
            for user in range(USERS)
        ]  # fmt: skip
        best_U = [int(scores.score_C.argmax()) for scores in ranker.rank_all(requests)]
        shown_U = keys[best_U]
        lost.append(float((worth_I.max() - worth_I[best_U]).mean()))
    return lost


def test_exploring_finds_what_greed_never_shows() -> None:
    greedy, thompson = (np.array([regret(e, seed) for seed in range(SEEDS)]) for e in (0.0, 1.0))
    assert thompson.sum() < 0.9 * greedy.sum(), (greedy.sum(1), thompson.sum(1))
    late = np.s_[:, 2 * ROUNDS // 3 :]
    assert thompson[late].mean() < 0.75 * greedy[late].mean(), (greedy[late], thompson[late])
