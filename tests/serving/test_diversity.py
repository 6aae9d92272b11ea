"""Maximal marginal relevance against its definition in plain loops, and over HTTP."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.actions import key_of
from service.client import RequestError
from serving.diversity import diverse
from tests.serving.conftest import Site


def plainly(scores: Any, vectors: Any, count: int, diversity: float) -> list[int]:
    relevance = (scores - scores.min()) / max(float(np.ptp(scores)), 1e-30)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    chosen: list[int] = [int(relevance.argmax())]
    while len(chosen) < min(count, len(scores)):
        best, place = -np.inf, -1
        for c in range(len(scores)):
            similar = max(float(unit[c] @ unit[other]) for other in chosen)
            gain = (1 - diversity) * relevance[c] - diversity * similar
            if c not in chosen and gain > best:
                best, place = gain, c
        chosen.append(place)
    return chosen


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    st.integers(1, 30), st.integers(1, 40), st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    st.integers(0, 2**32),
)  # fmt: skip
def test_each_place_goes_to_the_greatest_marginal_relevance(
    candidates: int, count: int, diversity: float, seed: int
) -> None:
    make = np.random.default_rng(seed)
    scores, vectors = make.standard_normal((3, candidates)), make.standard_normal((candidates, 4))
    found = diverse(torch.tensor(scores), torch.tensor(vectors), count, diversity).tolist()
    assert found == [plainly(one, vectors, count, diversity) for one in scores]


def test_without_diversity_the_order_is_that_of_the_scores() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 3.0]])
    assert diverse(scores, torch.ones(4, 2), 4, 0.0).tolist() == [[1, 3, 2, 0]]


def test_an_item_like_one_above_it_waits() -> None:
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]])
    scores = torch.tensor([[3.0, 2.9, 1.0]])
    assert diverse(scores, vectors, 3, 0.1).tolist() == [[0, 1, 2]]
    assert diverse(scores, vectors, 3, 0.6).tolist() == [[0, 2, 1]]


def test_nothing_and_equal_scores_are_lists_too() -> None:
    assert diverse(torch.zeros(2, 0), torch.zeros(0, 3), 5, 0.5).tolist() == [[], []]
    assert sorted(diverse(torch.ones(1, 3), torch.zeros(3, 2), 5, 0.5)[0].tolist()) == [0, 1, 2]


def test_recommendations_differ_more_with_it_and_begin_alike(site: Site) -> None:
    tables = site.core.engine.do(lambda tables: tables)
    ranker = tables.require_served().ranker

    def listed(**options: Any) -> tuple[list[Any], float]:
        items = [one["item"] for one in site.client.recommend("u1", n=8, **options)["items"]]
        keys = np.array([key_of(item) for item in items])
        unit = torch.nn.functional.normalize(ranker.vectors(keys), dim=1)
        return items, float((unit @ unit.T).sum())

    (plain, alike), (mixed, less) = listed(), listed(diversity=0.9)
    assert plain[0] == mixed[0]
    assert len(set(mixed)) == 8
    assert less < alike
    assert listed(diversity=0.0)[0] == plain


def test_diversity_lies_between_nothing_and_one(site: Site) -> None:
    for wrong in (-0.1, 1.1, "much"):
        with pytest.raises(RequestError, match="diversity"):
            site.client.recommend("u1", diversity=wrong)
