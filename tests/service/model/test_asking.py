"""Asking of kept histories says what the network says, in whatever pieces it is done."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kernels.attention import Rows
from service.model.asking import Answer, Asked, Asker, Seen, _bias, window_of
from service.model.compiled import CompiledAsker
from service.model.network import Network
from service.model.plain import PlainAsker
from service.model.settings import ModelSettings

WINDOW = 64
DIM = 32
START_MS = 1_732_096_800_000
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
both = pytest.mark.parametrize("kind", [Asker, CompiledAsker])
"""In float32."""


def network_of(**settings: object) -> Network:
    torch.manual_seed(0)
    shape = {"dim": DIM, "layers": 3, "qk_width": 8, "v_width": 16, "window": WINDOW} | settings
    made = Network(ModelSettings(**shape), 3).eval()
    for layer in made.hstu._stack():
        for table in (layer.distance_bias, layer.time_bias, layer.self_bias):
            if table is not None:
                nn.init.normal_(table, std=0.5)
    return made


def seen_of(events: int, seed: int = 0) -> Seen:
    make = np.random.default_rng(seed)
    at_ms_T = START_MS + np.cumsum(make.exponential(3e6, events)).astype(np.int64)
    items, actions = make.integers(0, 99, events), make.integers(0, 3, events)
    return Seen(items, actions, at_ms_T, int(START_MS - make.integers(1, 10**8)))


def first_of(seen: Seen, events: int) -> Seen:
    columns = (seen.item_T, seen.action_T, seen.at_ms_T)
    return Seen(*(column[:events] for column in columns), seen.before_ms)


def vectors(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def truth(network: Network, seen: Seen, vectors_TD: Tensor, at_ms: int, items_CD: Tensor) -> Answer:
    """By the network's own layers."""
    encoded = network.encode(window_of(seen), vectors_TD)

    def asking(rows: int) -> Rows:
        limit_R = torch.full((rows,), len(seen))
        return Rows(torch.tensor([0, rows]), limit_R, limit_R, torch.full((rows,), at_ms))

    places = torch.arange(len(items_CD))
    here = encoded, places, items_CD, asking(len(items_CD))
    return Answer(
        network.users(encoded, asking(1))[0],
        network.action_logits(*here),
        network.action_inputs(*here),
    )


def assert_close(found: Answer, expected: Answer, **tolerance: float) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or CLOSE))


@both
@pytest.mark.parametrize("events", [0, 1, 2, 17, WINDOW])
@torch.inference_mode()
def test_an_answer_is_the_networks_own(kind: type[Asker], events: int) -> None:
    network, seen, at_ms = network_of(), seen_of(events), START_MS + 10**9
    vectors_TD, items_CD = vectors(events), vectors(23, seed=2)
    asker = kind(network)
    (found,) = asker.ask([Asked(asker.read(seen, vectors_TD), at_ms, items_CD)])
    assert_close(found, truth(network, seen, vectors_TD, at_ms, items_CD))


@both
@pytest.mark.parametrize("cuts", [[0], [1], [5, 6, 7], [0, 1, 30, 39]])
@torch.inference_mode()
def test_a_history_that_is_extended_says_what_one_that_is_read_at_once_says(
    kind: type[Asker], cuts: list[int]
) -> None:
    seen, vectors_TD, items_CD = seen_of(40), vectors(40), vectors(9, seed=2)
    asker = kind(network_of())
    kept, known = None, 0
    for cut in [*cuts, len(seen)]:
        kept = asker.read(first_of(seen, cut), vectors_TD[known:cut], kept)
        known = cut
    at_ms = int(seen.at_ms_T[-1]) + 5
    whole, extended = (
        asker.ask([Asked(one, at_ms, items_CD)])[0]
        for one in (asker.read(seen, vectors_TD), kept)
    )  # fmt: skip
    assert_close(extended, whole)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 499])
@torch.inference_mode()
def test_candidates_in_chunks_of_any_size_score_alike(size: int) -> None:
    seen, items_CD = seen_of(50), vectors(500, seed=2)
    asker = Asker(network_of())
    kept, at_ms = asker.read(seen, vectors(50)), START_MS + 10**9
    (whole,) = asker.ask([Asked(kept, at_ms, items_CD)])
    parts = [asker.ask([Asked(kept, at_ms, part)])[0] for part in items_CD.split(size)]
    together = torch.cat([part.logits_CA for part in parts])
    torch.testing.assert_close(together, whole.logits_CA, **CLOSE)
    for part in parts:
        torch.testing.assert_close(part.user_D, whole.user_D, **CLOSE)


@pytest.mark.parametrize("size", [1, 7, 8, 63, 64, 65])
@torch.inference_mode()
def test_compiled_not_a_bit_depends_on_pieces_and_on_others(size: int) -> None:
    seen, items_CD, vectors_TD = seen_of(50), vectors(200, seed=2), vectors(50)
    asker, at_ms = CompiledAsker(network_of()), START_MS + 10**9
    kept = asker.read(seen, vectors_TD)
    cut = asker.read(first_of(seen, size % 50), vectors_TD[: size % 50])
    extended = asker.read(seen, vectors_TD[size % 50 :], cut)
    other = Asked(asker.read(seen_of(9, 3), vectors(9)), at_ms, vectors(5))
    (whole,) = asker.ask([Asked(kept, at_ms, items_CD)])
    parts = [asker.ask([other, Asked(extended, at_ms, part)])[1] for part in items_CD.split(size)]
    assert torch.equal(torch.cat([part.logits_CA for part in parts]), whole.logits_CA)
    assert all(torch.equal(part.user_D, whole.user_D) for part in parts)


@both
@torch.inference_mode()
def test_who_shares_a_batch_changes_nothing(kind: type[Asker]) -> None:
    asker = kind(network_of())
    asked = []
    for events in (0, 3, 64, 1, 33):
        kept = asker.read(seen_of(events, events), vectors(events, events))
        asked.append(Asked(kept, START_MS + 10**9 + events, vectors(events % 7, events)))
    for one, found in zip(asked, asker.ask(asked), strict=True):
        assert_close(found, asker.ask([one])[0])


@torch.inference_mode()
def test_weights_that_do_not_fit_a_cache_are_computed_in_parts(monkeypatch) -> None:
    seen, items_CD, asker = seen_of(40), vectors(100, seed=2), Asker(network_of())
    kept = asker.read(seen, vectors(40))
    asked = [Asked(kept, START_MS + 10**9, items_CD)]
    (whole,) = asker.ask(asked)
    monkeypatch.setattr("service.model.asking.CHUNK_WEIGHTS", 700)
    (parts,) = asker.ask(asked)
    assert_close(parts, whole)
    assert_close(asker.ask([Asked(asker.read(seen, vectors(40)), *asked[0][1:])])[0], whole)


@torch.inference_mode()
def test_an_event_weighs_what_it_contributes() -> None:
    """Without the other events: with SiLU weights contributions are a plain sum."""
    network, seen, items_CD = network_of(layers=1), seen_of(7), vectors(4, seed=2)
    asker, at_ms = Asker(network), START_MS + 10**9
    kept = asker.read(seen, vectors(7))
    weighed = torch.zeros(5, 7)
    asker.ask([Asked(kept, at_ms, items_CD)], [weighed])
    (weights,) = asker._layers
    x_RD, _ = asker._tokens([Asked(kept, at_ms, items_CD)])
    q_RHK = asker._projected(x_RD, weights).q
    for t in range(7):
        only = torch.full((1, 7), -1e30)
        bias_T = _bias(seen.at_ms_T, at_ms, weights.near, weights.when)
        only[0, t] = float(bias_T[t])
        alone_RHV = asker._attended(q_RHK, kept.keys[0], kept.values[0], only)
        torch.testing.assert_close(weighed[:, t], alone_RHV.norm(dim=2).sum(1), **CLOSE)


@torch.inference_mode()
def test_compiled_an_event_weighs_as_much() -> None:
    seen, items_CD, both = seen_of(40), vectors(70, seed=2), []
    for asker in (Asker(network_of()), CompiledAsker(network_of())):
        weighed = torch.zeros(71, 40)
        asker.ask([Asked(asker.read(seen, vectors(40)), START_MS + 10**9, items_CD)], [weighed])
        both.append(weighed)
    torch.testing.assert_close(*both, **CLOSE)


@torch.inference_mode()
def test_bfloat16_stays_near() -> None:
    network, seen, items_CD = network_of(), seen_of(50), vectors(60, seed=2)
    low, at_ms = Asker(network, torch.bfloat16), START_MS + 10**9
    kept = low.read(seen, vectors(50))
    assert {one.dtype for one in (*kept.keys, *kept.values)} == {torch.bfloat16}
    expected = truth(network, seen, vectors(50), at_ms, items_CD)
    assert_close(low.ask([Asked(kept, at_ms, items_CD)])[0], expected, rtol=0.05, atol=0.05)


def test_events_begin_others_only_if_nothing_of_them_differs() -> None:
    seen = seen_of(10)
    assert first_of(seen, 4).begins(seen)
    assert seen.begins(seen)
    assert not seen.begins(first_of(seen, 4))
    assert not replace(seen, before_ms=-1).begins(seen)
    for name in ("item_T", "action_T", "at_ms_T"):
        changed = getattr(seen, name).copy()
        changed[3] += 1
        assert not replace(seen, **{name: changed}).begins(seen)


@pytest.mark.parametrize(
    "settings",
    [
        {"layer": "research"}, {"layer": "production"}, {"weights": "softmax"},
        {"relative_bias": False}, {"next_item_from": "history"},
    ],
)  # fmt: skip
@torch.inference_mode()
def test_networks_of_other_forms_are_asked_plainly(settings: dict[str, object]) -> None:
    network, seen, items_CD = network_of(**settings), seen_of(20), vectors(6, seed=2)
    for kind in (Asker, CompiledAsker):
        with pytest.raises(ValueError, match="form freshet"):
            kind(network)
    asker, at_ms = PlainAsker(network), START_MS + 10**9
    (found,) = asker.ask([Asked(asker.read(seen, vectors(20)), at_ms, items_CD)])
    assert_close(found, truth(network, seen, vectors(20), at_ms, items_CD), rtol=0, atol=0)
