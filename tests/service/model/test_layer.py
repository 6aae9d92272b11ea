"""Softmax and other biases against a plain loop; bfloat16, recomputation, dropout, encoders."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from kernels.attention import Events, Rows
from kernels.attention.buckets import distance_bucket, time_bucket
from kernels.attention.variants import BLOCK_PAIRS, softmax_attention
from service.model.hstu import history_rows
from service.model.layer import FORMS, Form, KeysValues, Layer
from service.model.network import Network
from service.model.sequence import SequenceEncoder
from service.model.tokens import Window
from service.model.watching import watching

NetworkOf = Callable[..., Network]

NOW_MS = 1_732_096_800_000
N = 24
LENGTHS, ASKED = (2, 0, 17, 5, 1, 0, 30), (3, 2, 4, 0, 1, 0, 6)

OURS, RESEARCH = FORMS["freshet"], FORMS["research"]
ATTENTIONS = {
    "softmax": replace(OURS, weights="softmax"),
    "softmax without times": replace(OURS, weights="softmax", time=False),
    "softmax without bias": replace(OURS, weights="softmax", bias=None),
    "softmax with the research bias": replace(RESEARCH, weights="softmax"),
    "research": RESEARCH,
    "research without times": replace(RESEARCH, time=False),
    "no bias": replace(OURS, bias=None),
    "ours without times": replace(OURS, time=False),
}
each_attention = pytest.mark.parametrize("form", ATTENTIONS.values(), ids=ATTENTIONS.keys())


def ends(counts: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *np.cumsum(counts)], dtype=torch.int64)


def layout(make: np.random.Generator) -> tuple[Rows, Events]:
    """Rows with any limit and time, in no order."""
    limit = [make.integers(0, n + 3) for n, r in zip(LENGTHS, ASKED, strict=True) for _ in range(r)]
    limit[6] = 0  # with events that it does not see
    at_ms = NOW_MS - (1000 * 10 ** make.uniform(0, 8, sum(LENGTHS))).astype(np.int64)
    rows = Rows(
        ends(ASKED), torch.tensor(limit) + torch.from_numpy(make.integers(-1, 3, len(limit))),
        torch.tensor(limit), torch.from_numpy(NOW_MS + make.integers(-(10**6), 10**9, len(limit))),
    )  # fmt: skip
    return rows, Events(ends(LENGTHS), torch.from_numpy(at_ms))


def layer_of(form: Form, dtype: torch.dtype = torch.float64) -> Layer:
    layer = Layer(form, 8, 2, 3, 4, N).to(dtype)
    make = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=make)
    return layer


def plain_bias(layer: Layer, distance: int, gap_ms: int) -> float:
    if layer.distance_bias is None:
        return 0.0
    if layer.form.bias == "research":
        near = max(N - 1 - distance, 0)
        when = min(int(math.log(max(1, abs(gap_ms) // 1000)) / 0.301), 128)
    else:
        near = int(distance_bucket(torch.tensor(distance)))
        when = int(time_bucket(torch.tensor(gap_ms)))
    by_time = 0.0 if layer.time_bias is None else float(layer.time_bias[when])
    return float(layer.distance_bias[near]) + by_time


def plain_attention(
    layer: Layer, q: Tensor, seen: KeysValues, rows: Rows, events: Events, own: KeysValues | None
) -> Tensor:
    """One row, one head, one event at a time."""
    out = torch.zeros(len(q), 2, 4, dtype=torch.float64)
    for b in range(len(LENGTHS)):
        for r in range(int(rows.offsets[b]), int(rows.offsets[b + 1])):
            for h in range(2):
                terms = []
                for j in range(min(int(rows.limit[r]), LENGTHS[b])):
                    t = int(events.offsets[b]) + j
                    gap_ms = int(rows.at_ms[r] - events.at_ms[t])
                    bias = plain_bias(layer, max(int(rows.position[r]) - j, 0), gap_ms)
                    terms.append((layer.alpha * float(q[r, h] @ seen.k[t, h]) + bias, seen.v[t, h]))
                if own is not None:
                    bias = 0.0 if layer.self_bias is None else float(layer.self_bias)
                    terms.append((layer.alpha * float(q[r, h] @ own.k[r, h]) + bias, own.v[r, h]))
                total = sum(math.exp(x) for x, _ in terms)
                for x, value in terms:
                    soft = layer.form.weights == "softmax"
                    out[r, h] += (
                        math.exp(x) / total if soft else x / (1 + math.exp(-x)) / N
                    ) * value
    return out


@each_attention
@pytest.mark.parametrize("with_self", [False, True])
def test_an_attention_is_the_plain_loop(form: Form, with_self: bool) -> None:
    make, layer = np.random.default_rng(1), layer_of(form).requires_grad_(False)
    rows, events = layout(make)
    count, total = sum(ASKED), sum(LENGTHS)
    shapes = (count, 2, 3), (total, 2, 3), (total, 2, 4)
    q, k, v = (torch.from_numpy(make.normal(size=shape)) for shape in shapes)
    own = KeysValues(*(torch.from_numpy(make.normal(size=(count, 2, w))) for w in (3, 4)))
    told = own if with_self else None
    found = layer.attend(q, KeysValues(k, v), rows, events, told)
    expected = plain_attention(layer, q, KeysValues(k, v), rows, events, told)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    if not with_self:
        assert not found[rows.limit == 0].any()


@pytest.mark.parametrize("timed", [True, False])
def test_the_packed_loops_have_the_gradients_of_the_dense_blocks(timed: bool) -> None:
    layer = layer_of(replace(RESEARCH, time=timed))
    make = np.random.default_rng(2)
    rows, events = layout(make)
    shapes = (sum(ASKED), 2, 3), (sum(LENGTHS), 2, 3), (sum(LENGTHS), 2, 4)
    inputs = [torch.from_numpy(make.normal(size=shape)) for shape in shapes]
    grad_out = torch.from_numpy(make.normal(size=(sum(ASKED), 2, 4)))
    results = []
    for dtype in (torch.float64, torch.float32):  # dense blocks, packed loops
        layer.zero_grad()
        layer = layer.to(dtype)
        q, k, v = (t.to(dtype).detach().requires_grad_() for t in inputs)
        out = layer.attend(q, KeysValues(k, v), rows, events)
        out.backward(grad_out.to(dtype))
        grads = q.grad, k.grad, v.grad, layer.distance_bias.grad
        results.append([out, *grads, *([layer.time_bias.grad] if timed else [])])
    for dense, packed in zip(*results, strict=True):
        torch.testing.assert_close(packed.double(), dense, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [ATTENTIONS["softmax"], RESEARCH], ids=["softmax", "research"])
def test_gradients_are_those_of_finite_differences(form: Form) -> None:
    layer = layer_of(form)
    events = Events(ends((3, 0, 1)), NOW_MS + torch.tensor([0, 5000, 100_000, 7000]))
    limit = torch.tensor([3, 1, 0, 1])
    rows = Rows(ends((2, 1, 1)), limit, limit, NOW_MS + 10**6 * torch.arange(4))
    make = torch.Generator().manual_seed(2)
    shapes = ((4, 2, 3), (4, 2, 3), (4, 2, 4), (4, 2, 3), (4, 2, 4))
    inputs = [torch.randn(shape, generator=make, dtype=torch.float64) for shape in shapes]
    tables = [layer.distance_bias, layer.time_bias, layer.self_bias]

    def call(q: Tensor, k: Tensor, v: Tensor, own_k: Tensor, own_v: Tensor, *_: Any) -> Tensor:
        return layer.attend(q, KeysValues(k, v), rows, events, KeysValues(own_k, own_v))

    assert torch.autograd.gradcheck(call, [x.requires_grad_() for x in inputs] + tables)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_watch_is_told_what_each_matrix_multiplies(form: Form) -> None:
    layer, (_, events) = layer_of(form), layout(np.random.default_rng(0))
    x_TD = torch.randn(sum(LENGTHS), 8, dtype=torch.float64)
    told: dict[nn.Linear, Tensor] = {}
    with watching(told.__setitem__):
        seen = layer.keys_values(x_TD)
        out_TD, _ = layer.history(x_TD, history_rows(events), events)
    assert torch.equal(out_TD, x_TD + layer.output(told[layer.output]))
    k_THK = layer.project(told[layer.project]).split([8, 6, 6, 8], dim=1)[2].unflatten(1, (2, 3))
    k_THK = silu(k_THK) if 2 in form.silu_on else k_THK
    assert torch.allclose(k_THK, seen.k)
    assert told.keys() == {layer.project, layer.output}


def test_history_rows_in_one_block_or_several_are_the_same() -> None:
    """One user of a length that fills a block, and users beside it that share another."""
    length = math.isqrt(BLOCK_PAIRS) // 4
    lengths = (length,) * 20
    events = Events(ends(lengths), torch.arange(20 * length))
    make = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(20 * length, 1, 2, generator=make) for _ in range(3))
    position = torch.arange(length).repeat(20)
    rows = Rows(events.offsets, position, position + 1, events.at_ms)
    together, _ = softmax_attention(q, k, v, rows, events, None, 1.0)
    alone, _ = softmax_attention(
        q[:length], k[:length], v[:length],
        Rows(ends((length,)), position[:length], position[:length] + 1, events.at_ms[:length]),
        Events(ends((length,)), events.at_ms[:length]), None, 1.0,
    )  # fmt: skip
    torch.testing.assert_close(together[:length], alone, rtol=0, atol=1e-6)


def window() -> Window:
    lengths = (3, 0, 40)
    at_ms = NOW_MS + 10**6 * torch.arange(43)
    item_T = torch.arange(43) % 12
    return Window(Events(ends(lengths), at_ms), item_T, item_T % 5, at_ms - 10**6)


def step(network: Network) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss and every gradient, of a batch with query and target rows."""
    make = torch.Generator().manual_seed(1)
    items_UD = torch.randn(12, network.settings.dim, generator=make).requires_grad_()
    limit = torch.tensor([0, 1, 3, 0, 5, 40])
    rows = Rows(ends((3, 1, 2)), limit, limit, torch.full((6,), NOW_MS + 10**9))
    read = network.encode(window(), items_UD)
    logits = network.next_item(network.users(read, rows), items_UD)
    actions = network.action_logits(read, torch.arange(6), items_UD, rows)
    loss = torch.logsumexp(logits, 1).mean() + torch.nn.functional.softplus(actions).mean()
    network.zero_grad()
    loss.backward()
    grads = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return loss.detach(), {**grads, "items": items_UD.grad}


def again(network: Network, **options: Any) -> Network:
    """The same weights in a network of other options."""
    other = Network(network.settings, network.actions.out_features, **options)
    other.load_state_dict(network.state_dict())
    return other


VARIANTS: list[dict[str, Any]] = [
    {}, {"next_item_from": "history"}, {"weights": "softmax"}, {"layer": "research"},
    {"layer": "production"},
]  # fmt: skip
each_variant = pytest.mark.parametrize("model", VARIANTS, ids=str)


@each_variant
def test_bfloat16_products_move_the_loss_little_and_leave_the_weights_float32(
    network_of: NetworkOf, model: dict[str, Any]
) -> None:
    exact = network_of(**model)
    low = again(exact, precision=torch.bfloat16)
    (loss, grads), (low_loss, low_grads) = step(exact), step(low)
    assert loss != low_loss  # it does something
    # Each product is rounded by up to 2^-9, in three layers, with weights of any sign.
    assert abs(loss - low_loss) <= 0.002 * abs(loss)
    assert low_grads.keys() == grads.keys()
    whole, low_whole = (torch.cat([g.flatten() for g in gs.values()]) for gs in (grads, low_grads))
    assert low_whole.dtype == torch.float32
    assert (whole - low_whole).norm() <= 0.08 * whole.norm()
    assert [(n, p.dtype) for n, p in low.named_parameters()] == [
        (n, torch.float32) for n, _ in exact.named_parameters()
    ]


@each_variant
def test_recomputing_gives_the_same_bits_and_keeps_less(
    network_of: NetworkOf, model: dict[str, Any]
) -> None:
    kept: list[int] = []

    def weigh(x: Tensor) -> Tensor:
        kept[-1] += x.numel()
        return x

    results = []
    for options in ({}, {"recompute": True}):
        network = again(network_of(**model), **options).train()
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(weigh, lambda x: x):
            results.append(step(network))
        assert network.state_dict().keys() == network_of(**model).state_dict().keys()
    (loss, grads), (again_loss, again_grads) = results
    assert torch.equal(loss, again_loss)
    assert grads.keys() == again_grads.keys()
    assert all(torch.equal(grads[name], again_grads[name]) for name in grads)
    assert kept[1] < 0.5 * kept[0]


def encoder(form: Form = RESEARCH, **options: Any) -> SequenceEncoder:
    torch.manual_seed(3)
    return SequenceEncoder(30, 8, 2, 2, 4, 4, N, form, **options)


def test_an_encoder_gives_each_history_unit_vectors_of_its_own() -> None:
    made = encoder().eval()
    item_T, offsets = torch.arange(1, 13), ends((5, 0, 7))
    at_T = NOW_MS + 60_000 * torch.arange(12)
    whole = made(item_T, offsets, at_T + 60_000, at_T)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(12))
    alone = made(item_T[5:], ends((7,)), at_T[5:] + 60_000, at_T[5:])
    torch.testing.assert_close(alone, whole[5:], rtol=0, atol=1e-6)
    later = made(item_T[5:], ends((7,)), at_T[5:] + 10**9, at_T[5:])
    assert not torch.allclose(later, alone)
    prefix = made(item_T[5:9], ends((4,)), at_T[5:9] + 60_000, at_T[5:9])
    torch.testing.assert_close(prefix, whole[5:9], rtol=0, atol=1e-6)
    assert made.item_vectors().norm(dim=1).tolist() == pytest.approx([0, *[1] * 30])


def test_an_encoder_that_reads_time_asks_for_it_and_another_does_not() -> None:
    item_T, offsets = torch.arange(1, 5), ends((4,))
    with pytest.raises(ValueError, match="pass at_T and next_at_T, or build it with time=False"):
        encoder()(item_T, offsets)
    for made in (encoder(time=False), encoder(OURS, time=False), encoder(FORMS["production"])):
        assert made(item_T, offsets).shape == (4, 8)


def test_dropout_acts_in_training_alone_on_the_input_and_in_every_layer() -> None:
    item_T, offsets = torch.arange(1, 13), ends((12,))
    made = encoder(time=False, dropout=0.5)
    without = encoder(time=False)
    assert torch.equal(made.eval()(item_T, offsets), without(item_T, offsets))
    made.train()
    assert not torch.equal(made(item_T, offsets), made(item_T, offsets))
    for layer in made.layers:
        rows = Rows(offsets, torch.arange(12), torch.arange(12) + 1, torch.zeros(12).long())
        x_TD = torch.randn(12, 8)
        first, second = (layer.history(x_TD, rows, Events(offsets, rows.at_ms))[0] for _ in "ab")
        assert not torch.equal(first, second)
    made.dropout = 0.0
    made.layers = torch.nn.ModuleList()
    assert torch.equal(made(item_T, offsets), made(item_T, offsets))
    made.dropout = 0.5
    assert not torch.equal(made(item_T, offsets), made(item_T, offsets))
