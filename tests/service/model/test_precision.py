"""The precision of products is the one that measures fastest, or the one that is asked for."""

import logging
import re

import pytest
import torch

from service.model.precision import PRECISIONS, Measured, chosen, fastest, measure
from service.model.ranker import Ranker

FULL = {"fp32": Measured(1.0, 0.0)}


@pytest.mark.parametrize(
    ("low", "name"),
    [
        ({"bf16": Measured(0.5, 4e-4), "int8": Measured(0.6, 2e-3)}, "bf16"),
        ({"bf16": Measured(0.6, 4e-4), "int8": Measured(0.5, 2e-3)}, "int8"),
        ({"bf16": Measured(0.9, 4e-4), "int8": Measured(0.85, 2e-3)}, "fp32"),
        ({"bf16": Measured(2.0, 4e-4), "int8": Measured(0.8, 5e-3)}, "int8"),
        ({"bf16": Measured(0.7, 4e-4), "int8": Measured(0.5, 6e-3)}, "bf16"),
        ({"bf16": Measured(0.7, 6e-3), "int8": Measured(0.5, float("nan"))}, "fp32"),
    ],
)
def test_the_fastest_that_is_exact_enough_is_taken_where_it_is_clearly_faster(
    low: dict[str, Measured], name: str
) -> None:
    assert fastest(FULL | low) == name


def test_what_is_asked_for_is_taken(network_of) -> None:
    assert [chosen(network_of(), name) for name in PRECISIONS] == ["fp32", "bf16", "int8"]
    assert chosen(network_of(layer="research"), "bf16") == "fp32"
    assert chosen(network_of(layer="research"), "auto") == "fp32"


def test_measuring_says_how_long_a_ranking_takes_and_how_exact_it_is(network_of, caplog) -> None:
    measured = measure(network_of())
    assert list(measured) == list(PRECISIONS)
    assert all(one.seconds > 0 for one in measured.values())
    assert measured["fp32"].loss == 0
    assert all(0 < measured[name].loss < 0.2 for name in ("bf16", "int8"))
    with caplog.at_level(logging.INFO):
        assert chosen(network_of(), "auto") in PRECISIONS
    assert re.search(r"256 candidates takes: fp32 .* ms, off by 0.*; bf16 .*; int8", caplog.text)


def test_scores_in_bfloat16_are_near_those_in_float32(snapshot_of, history_of) -> None:
    full, low = (Ranker(snapshot_of(), dense=name) for name in ("fp32", "bf16"))
    assert (full.dense, low.dense) == ("fp32", "bf16")
    keys, history = torch.arange(100, 139).numpy(), history_of(12)
    a, b = (one.rank(history, keys, int(history.at_ms_T[-1]) + 1000) for one in (full, low))
    assert not torch.equal(a.score_C, b.score_C)
    torch.testing.assert_close(a.next_item_C, b.next_item_C, rtol=0.1, atol=0.3)
