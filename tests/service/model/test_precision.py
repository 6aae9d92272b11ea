"""The precision of products is the one that measures fastest, or the one that is asked for."""

import pytest
import torch

from service.model import precision
from service.model.asking import Asker
from service.model.compiled import CompiledAsker
from service.model.precision import chosen
from service.model.ranker import Ranker


@pytest.mark.parametrize(("low_seconds", "name"), [(0.5, "bf16"), (0.9, "fp32"), (2.0, "fp32")])
def test_bfloat16_is_taken_where_it_is_clearly_faster(
    network_of, monkeypatch, low_seconds: float, name: str
) -> None:
    seconds = {CompiledAsker: 1.0, Asker: low_seconds}
    monkeypatch.setattr(precision, "_seconds", lambda asker, _: seconds[type(asker)])
    assert chosen(network_of(), "auto") == name


def test_what_is_asked_for_is_taken(network_of) -> None:
    assert [chosen(network_of(), name) for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert chosen(network_of(layer="research"), "bf16") == "fp32"
    assert chosen(network_of(layer="research"), "auto") == "fp32"


def test_measuring_says_how_long_a_ranking_takes(network_of) -> None:
    assert chosen(network_of(), "auto") in precision.PRECISIONS


def test_scores_in_bfloat16_are_near_those_in_float32(snapshot_of, history_of) -> None:
    full, low = (Ranker(snapshot_of(), dense=name) for name in ("fp32", "bf16"))
    assert (full.dense, low.dense) == ("fp32", "bf16")
    keys, history = torch.arange(100, 139).numpy(), history_of(12)
    a, b = (one.rank(history, keys, int(history.at_ms_T[-1]) + 1000) for one in (full, low))
    assert not torch.equal(a.score_C, b.score_C)
    torch.testing.assert_close(a.next_item_C, b.next_item_C, rtol=0.1, atol=0.3)
