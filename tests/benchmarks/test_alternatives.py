"""What stands beside Freshet computes what it should: models see what they may, features count."""

import numpy as np
import pytest
import torch

from benchmarks.alternatives.asking import CANDIDATES, bodies
from benchmarks.alternatives.features import FEATURES, HISTORY, OF_ITEMS, OF_USERS, RECENT, Features
from benchmarks.alternatives.network import Network
from benchmarks.alternatives.rankers import numbers

ITEMS = 300


def scores(network: Network, history: list[int], candidates: list[int]) -> torch.Tensor:
    padded = torch.zeros(HISTORY, dtype=torch.int64)
    padded[HISTORY - len(history) :] = torch.tensor(history)
    with torch.inference_mode():
        return network(padded, torch.tensor(candidates))


@pytest.mark.parametrize("targets", [False, True])
@pytest.mark.parametrize("length", [1, 7, HISTORY])
def test_a_score_hangs_on_the_history_and_the_candidate_alone(targets: bool, length: int) -> None:
    network = Network(ITEMS, targets).eval()
    draw = np.random.default_rng(length)
    history, candidates = (draw.integers(1, ITEMS, n).tolist() for n in (length, 9))
    whole = scores(network, history, candidates)
    for place, candidate in enumerate(candidates):
        alone = scores(network, history, [candidate])
        assert alone == pytest.approx(whole[place : place + 1], abs=1e-5)
    with torch.no_grad():
        network.items.weight[0] = 1e3  # padding
    assert scores(network, history, candidates) == pytest.approx(whole, abs=1e-4)
    other = [*history[:-1], history[-1] % (ITEMS - 1) + 1]
    assert (scores(network, other, candidates) - whole).abs().min() > 1e-5


@pytest.mark.parametrize("length", [1, 12, HISTORY])
def test_features_are_those_of_a_plain_count(length: int) -> None:
    made = Features(ITEMS)
    draw = np.random.default_rng(length)
    history, candidates = draw.integers(1, ITEMS, length), draw.integers(0, ITEMS, 20)
    found = made.of(history, candidates)
    assert found.shape == (20, FEATURES)
    category = made._category_I
    of = [int(category[item]) for item in history]
    for row, item in zip(found, candidates, strict=True):
        since = [place for place, seen in enumerate(history) if seen == item]
        met = [place for place, one in enumerate(of) if one == category[item]]
        expected = [
            len(since), since[0] if since else length, len(met) / length,
            sum(place < RECENT for place in met) / RECENT, met[0] if met else length,
            float(of[0] == category[item]),
        ]  # fmt: skip
        assert row[OF_ITEMS + OF_USERS :] == pytest.approx(expected)
        assert row[OF_ITEMS] == length


def test_everybody_is_asked_the_same_and_unknown_items_are_known_as_such() -> None:
    assert bodies(3) == bodies(3) != bodies(4)
    assert bodies(3)[0].count(b"item-") == CANDIDATES
    assert numbers(["item-0", "item-9999", "new"]).tolist() == [1, 10_000, 0]
