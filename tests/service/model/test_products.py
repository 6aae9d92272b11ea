"""Products in 8-bit integers use the snapshot's own codes and say what an offline decoding says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kernels.int8_linear import int8_linear
from service.model import layer as layers
from service.model.asking import Asked, Asker, Seen
from service.model.plain import PlainAsker
from service.model.products import product
from service.model.ranker import Ranker
from service.versions import ChannelCodes
from tests.service.model.conftest import NOW_MS

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def decoded(x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    """Offline: rows on their grid of 255 levels times a weight as it was decoded, in float64."""
    step_R1 = x_RI.abs().amax(1, keepdim=True) / 127
    levels_RI = torch.where(step_R1 > 0, x_RI / step_R1, 0.0).round()
    return levels_RI.double() * step_R1 @ weight_OI.double().T + bias_O.double()


def asked_of(asker: Asker | PlainAsker, events: int = 12, candidates: int = 9) -> list[Asked]:
    make, dim = torch.Generator().manual_seed(5), asker.network.settings.dim
    at_ms_T = NOW_MS - 60_000 * np.arange(events, 0, -1)
    seen = Seen(np.arange(events), np.zeros(events, np.int64), at_ms_T, -1)
    kept = asker.read(seen, torch.randn(events, dim, generator=make))
    return [Asked(kept, NOW_MS, torch.randn(candidates, dim, generator=make))]


@pytest.mark.parametrize("inputs", [16, 64])
def test_a_product_is_that_of_the_offline_decoding(inputs: int) -> None:
    torch.manual_seed(0)
    layer, x_RI = nn.Linear(inputs, 40).requires_grad_(False), torch.randn(70, inputs)
    codes = ChannelCodes.encode(layer.weight)
    wanted = decoded(x_RI, codes.decode(), layer.bias)
    torch.testing.assert_close(product(layer, torch.int8)(x_RI).double(), wanted, **CLOSE)


@pytest.mark.parametrize("bits", [8, 4])
def test_codes_that_were_published_are_the_ones_in_use(bits: int) -> None:
    """No others: four bits would be other codes of eight, and what they decode to is not asked."""
    torch.manual_seed(0)
    layer, x_RI = nn.Linear(16, 40).requires_grad_(False), torch.randn(70, 16)
    codes = ChannelCodes.encode(torch.randn(40, 16), bits)
    found = product(layer, torch.int8, codes)(x_RI)
    wanted = decoded(x_RI, codes.decode(), layer.bias)
    torch.testing.assert_close(found.double(), wanted, **CLOSE)


@torch.inference_mode()
def test_scores_are_those_of_a_network_that_is_decoded_offline(network_of, monkeypatch) -> None:
    """By the network's own layers, from a history that is not kept. One layer: in a second one a
    number that lies between two levels could be rounded to the other."""
    network, offline = (network_of(layers=1) for _ in range(2))
    (layer,) = offline.hstu._stack()
    for matrix in (layer.project, layer.output):
        matrix.weight.copy_(ChannelCodes.encode(matrix.weight).decode())
    asker, plain = Asker(network, torch.int8), PlainAsker(offline)
    found, exact = asker.ask(asked_of(asker))[0], plain.ask(asked_of(plain))[0]
    monkeypatch.setattr(layers, "linear", lambda *given: decoded(*given).float())
    wanted = plain.ask(asked_of(plain))[0]
    torch.testing.assert_close(found.user_D, wanted.user_D, **CLOSE)
    torch.testing.assert_close(found.logits_CA, wanted.logits_CA, **CLOSE)
    assert (exact.logits_CA - wanted.logits_CA).abs().max() > 100 * CLOSE["atol"]


@torch.inference_mode()
def test_products_of_two_backends_rank_alike_to_the_bit(network_of, monkeypatch) -> None:
    asker = Asker(network_of(), torch.int8)
    found = asker.ask(asked_of(asker))[0]
    monkeypatch.setattr(
        "service.model.products.int8_linear",
        lambda *given, **named: int8_linear(*given, **named, backend="reference"),
    )
    asker = Asker(network_of(), torch.int8)
    wanted = asker.ask(asked_of(asker))[0]
    assert torch.equal(found.user_D, wanted.user_D)
    assert torch.equal(found.logits_CA, wanted.logits_CA)


@torch.inference_mode()
def test_every_matrix_finds_its_own_codes(network_of) -> None:
    network = network_of()
    asked, weights = asked_of(Asker(network)), network.state_dict()
    plain = Asker(network, torch.int8).ask(asked)[0]
    for n in range(network.settings.layers):
        for part in ("project", "output"):
            name = f"hstu.layers.{n}.{part}.weight"
            codes = {name: ChannelCodes.encode(weights[name], bits=4)}
            coarse = Asker(network, torch.int8, codes).ask(asked)[0]
            assert not torch.equal(plain.user_D, coarse.user_D)


@pytest.mark.parametrize("dense", ["int8", "int4", "fp32"])
def test_a_server_takes_codes_from_the_version_and_from_the_next(
    snapshot_of, history_of, dense: str
) -> None:
    names = [f"hstu.layers.{n}.{part}.weight" for n in range(3) for part in ("project", "output")]
    first, second = (
        replace(snapshot_of(seed=seed), number=7 + seed).quantized(dict.fromkeys(names, dense))
        for seed in range(2)
    )
    ranker, whole = Ranker(first, dense="int8"), Ranker(second, dense="int8")
    coded = set() if dense == "fp32" else set(names)
    assert (ranker.dense, set(ranker.model.codes)) == ("int8", coded)
    ranker.apply(ranker.prepare(replace(second, parent=7)))
    keys, history = torch.arange(100, 139).numpy(), history_of(12)
    at_ms = int(history.at_ms_T[-1]) + 1000
    found, wanted = (one.rank(history, keys, at_ms).actions for one in (ranker, whole))
    for name in wanted:
        assert torch.equal(found[name], wanted[name])
    for name in coded:
        assert ranker.model.codes[name] is second.dense[name]


def test_rankings_in_integers_are_near_those_in_float32(snapshot_of, history_of) -> None:
    full, low = (Ranker(snapshot_of(), dense=name) for name in ("fp32", "int8"))
    keys, history = torch.arange(100, 139).numpy(), history_of(12)
    a, b = (one.rank(history, keys, int(history.at_ms_T[-1]) + 1000) for one in (full, low))
    assert not torch.equal(a.score_C, b.score_C)
    torch.testing.assert_close(a.next_item_C, b.next_item_C, rtol=0.1, atol=0.3)
