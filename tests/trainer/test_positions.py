"""The bias of a place in a list is told apart from what the items are worth."""

import numpy as np
import pytest
import torch

from service.histories.local import LocalHistories
from service.histories.settings import HistorySettings
from service.settings import Settings
from tests.trainer.workshop import settings
from trainer.build import Plan
from trainer.joining import Shown
from trainer.positions import POSITIONS, PositionBias
from trainer.targets import Targets

ITEMS, SIZE, LISTS, STEPS = 40, 12, 32, 900
SLOPE = 0.25
"""What a position further down takes from the log odds."""


def item_effects(bias: bool) -> tuple[float, float]:
    """How much of the items' worth is served for them (1 is all of it), and the mean of what is
    served less the mean of what is true at the average position, in log odds.

    Worthy items stand on top, where everything is clicked more.
    """
    sections = settings(
        store={"item": {"learning_rate": 0.1}}, actions={"types": {"click": {}}},
        trainer={"position_bias": bias, "learning_rate": 1e-2},
    )  # fmt: skip
    learner = Plan(Settings(sections)).fresh_state().learner
    learner.items.admit(torch.arange(ITEMS), torch.zeros(ITEMS, dtype=torch.int64))
    draw, targets = np.random.default_rng(0), Targets(16, 1)
    histories = LocalHistories(HistorySettings(capacity=64))
    worth = draw.normal(0, 0.6, ITEMS)
    for _ in range(STEPS):
        shown = []
        for _ in range(LISTS):
            items = draw.permutation(ITEMS)[:SIZE]
            items = items[np.argsort(-worth[items] - draw.normal(0, 0.6, SIZE))]
            odds = worth[items] - 0.5 - SLOPE * np.arange(SIZE)
            clicked = items[draw.random(SIZE) < 1 / (1 + np.exp(-odds))]
            shown.append(Shown(1, 1, items.tolist(), 0, dict.fromkeys(clicked.tolist(), 1)))
        ((batch,), _) = targets.batches(shown, histories)
        assert learner.learn_actions(batch).trained
    ((asked,), _) = targets.batches([Shown(1, 1, list(range(ITEMS)), 0)], histories)
    served = torch.logit(learner.chances(asked)[:, 0].double()).numpy()
    true = worth - 0.5 - SLOPE * (SIZE - 1) / 2
    share = ((worth - worth.mean()) * (served - served.mean())).sum() / worth.var() / ITEMS
    return float(share), float(served.mean() - true.mean())


def test_item_effects_are_unbiased_with_positions_and_exaggerated_without() -> None:
    share, offset = item_effects(bias=True)
    assert share == pytest.approx(1, abs=0.15)
    assert offset == pytest.approx(0, abs=0.2)  # the chance at the average position
    assert item_effects(bias=False)[0] > 1.4


def test_at_the_average_position_nothing_is_added() -> None:
    biases = PositionBias(2, torch.device("cpu"))
    with torch.no_grad():
        biases.bias_AP.normal_()
    shown_P = biases.with_shown(torch.arange(float(POSITIONS)))
    positions = torch.arange(POSITIONS).repeat_interleave(torch.arange(POSITIONS))
    added_RA = biases.logits(positions, shown_P)
    assert added_RA.shape == (len(positions), 2)
    torch.testing.assert_close(added_RA.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    assert added_RA.std() > 0.5


def test_nothing_shown_yet_is_no_division_by_zero() -> None:
    biases = PositionBias(1, torch.device("cpu"))
    assert (
        biases.logits(torch.tensor([0, 5]), biases.with_shown(torch.zeros(POSITIONS)))
        .isfinite()
        .all()
    )


def test_biases_survive_a_checkpoint_and_an_older_one_has_none() -> None:
    biases, other = (PositionBias(1, torch.device("cpu")) for _ in range(2))
    with torch.no_grad():
        biases.bias_AP.normal_()
    biases.shown_P = torch.arange(float(POSITIONS))
    other.load(biases.state())
    assert torch.equal(other.bias_AP, biases.bias_AP)
    assert torch.equal(other.shown_P, biases.shown_P)
    other.load({"bias": torch.zeros(1, POSITIONS)})
    assert torch.equal(other.bias_AP, biases.bias_AP)
