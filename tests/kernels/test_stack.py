"""All layers in one compiled call: what plain torch says, and the same bits however it is cut."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.crew import Crew
from kernels.stack import Kept, LayerWeights, Stack, heads
from kernels.stack.layout import by_place

CLOSE = {"rtol": 2e-5, "atol": 2e-5}
START_MS = 1_732_096_800_000


@dataclass(frozen=True)
class Shape:
    dim: int = 64
    layers: int = 2
    heads: int = 2
    width: int = 32
    value_width: int = 32
    length: int = 256

    def stack(self, backend: str = "numba", crew: Crew | None = None) -> Stack:
        make = torch.Generator().manual_seed(0)
        wide = self.heads * self.value_width
        parts = 2 * (wide + self.heads * self.width)

        def some(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=make) / shape[-1] ** 0.5

        layers = [
            LayerWeights(
                some(parts, self.dim), some(parts), some(self.dim, wide), some(self.dim),
                some(64) * 3, some(64) * 3, some(1),
            )
            for _ in range(self.layers)
        ]  # fmt: skip
        return Stack(layers, self.heads, self.width, self.value_width, self.length, backend, crew)

    def tokens(self, count: int, seed: int = 1) -> Tensor:
        return torch.randn(count, self.dim, generator=torch.Generator().manual_seed(seed))


def times(events: int) -> np.ndarray:
    gaps = np.random.default_rng(0).exponential(3e6, events)
    return START_MS + np.cumsum(gaps).astype(np.int64)


SHAPES = [
    Shape(), Shape(32, 3, 1, 8, 16, 64), Shape(40, 1, 3, 5, 7, 100), Shape(16, 2, 4, 4, 4, 300),
    Shape(130, 2, 2, 65, 33, 70),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("events", [0, 1, 15, 16, 17, 70, None])
@torch.inference_mode()
def test_it_says_what_plain_torch_says(shape: Shape, events: int | None) -> None:
    events = shape.length if events is None else min(events, shape.length)
    at_ms_T, rows = times(events), shape.tokens(67, seed=2)
    said = []
    for backend in ("reference", "numba"):
        stack, weighed = shape.stack(backend), torch.zeros(67, events)
        kept = stack.read(shape.tokens(events), at_ms_T)
        out = stack.ask(rows, kept, START_MS + 10**10, 2, weighed)
        said.append((out, weighed, kept))
    (a, weighs_a, kept_a), (b, weighs_b, kept_b) = said
    torch.testing.assert_close(b, a, **CLOSE)
    torch.testing.assert_close(weighs_b, weighs_a, **CLOSE)
    for name in ("keys_LHKT", "values_LHTV"):
        both = (torch.from_numpy(getattr(kept, name)[..., :events]) for kept in (kept_b, kept_a))
        torch.testing.assert_close(*both, **CLOSE)


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 63, 64, 65, 99, 100])
@torch.inference_mode()
def test_a_history_may_be_read_in_parts(cut: int) -> None:
    stack, at_ms_T, tokens = Shape().stack(), times(100), Shape().tokens(100)
    whole = stack.read(tokens, at_ms_T)
    parts = stack.read(tokens[cut:], at_ms_T, stack.read(tokens[:cut], at_ms_T[:cut]))
    assert np.array_equal(parts.values_LHTV, whole.values_LHTV)
    assert np.array_equal(parts.keys_LHKT[..., :100], whole.keys_LHKT[..., :100])


@pytest.mark.parametrize("size", [1, 7, 8, 63, 64, 65, 300])
@torch.inference_mode()
def test_rows_may_be_asked_in_parts(size: int) -> None:
    stack, at_ms_T, rows = Shape().stack(), times(100), Shape().tokens(300, seed=2)
    kept = stack.read(Shape().tokens(100), at_ms_T)
    whole = stack.ask(rows, kept, START_MS + 10**10, 0)
    parts = [stack.ask(part, kept, START_MS + 10**10, 0) for part in rows.split(size)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("threads", [2, 3])
@torch.inference_mode()
def test_threads_share_the_rows(threads: int) -> None:
    at_ms_T, rows, weighed = times(100), Shape().tokens(300, seed=2), []
    for crew in (Crew(), Crew(threads)):
        stack = Shape().stack(crew=crew)
        kept = stack.read(Shape().tokens(100), at_ms_T)
        weighed.append(torch.zeros(300, 100))
        weighed.append(stack.ask(rows, kept, START_MS + 10**10, weighed_RT=weighed[-1]))
    assert torch.equal(weighed[0], weighed[2])
    assert torch.equal(weighed[1], weighed[3])


@torch.inference_mode()
def test_what_rows_are_asked_with_stays_as_it_is() -> None:
    stack, rows = Shape().stack(), Shape().tokens(9)
    before = rows.clone()
    kept = stack.read(rows, times(9))
    stack.ask(rows, kept, START_MS + 10**10)
    assert torch.equal(rows, before)


@torch.inference_mode()
def test_rows_alone_do_not_see_themselves() -> None:
    stack, rows = Shape().stack(), Shape().tokens(9)
    kept = stack.read(rows, times(9))
    none, three = (stack.ask(rows, kept, START_MS + 10**10, alone) for alone in (0, 3))
    assert torch.equal(none[3:], three[3:])
    assert not (none[:3] == three[:3]).all(1).any()


@torch.inference_mode()
def test_heads_normalise_and_multiply() -> None:
    make = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*s, generator=make) for s in ((33, 40), (3, 40), (3,)))
    normed, out = heads(x, weight, bias)
    expected = torch.nn.functional.layer_norm(x, (40,), eps=1e-6)
    torch.testing.assert_close(normed, expected, **CLOSE)
    torch.testing.assert_close(out, expected @ weight.T + bias, **CLOSE)
    assert torch.equal(heads(x[20:], weight, bias)[1], out[20:])


def test_tables_by_place_hold_every_distance() -> None:
    table = by_place(np.arange(64, dtype=np.float32)[None], 40)[0]
    assert table[:41].tolist() == [33, *[32] * 8, *range(31, -1, -1)]
    assert table[41:].tolist() == [0] * 15


def test_what_does_not_fit_is_refused() -> None:
    shape = Shape(dim=8, width=4, value_width=4, length=20)
    stack = shape.stack()
    with pytest.raises(ValueError, match=r"0 events are kept and 3 are new, of 4; .* 20 at most"):
        stack.read(shape.tokens(3), times(4))
    with pytest.raises(ValueError, match="a history has 20 at most"):
        stack.read(shape.tokens(21), times(21))
    with pytest.raises(ValueError, match=r"tokens are \[3, 64\]; the stack is 8 wide"):
        stack.read(Shape().tokens(3), times(3))
    kept: Kept = stack.read(shape.tokens(3), times(3))
    with pytest.raises(ValueError, match=r"weights are \[2, 4\], rows and events \[2, 3\]"):
        stack.ask(shape.tokens(2), kept, START_MS, weighed_RT=torch.zeros(2, 4))
    whole = LayerWeights(*(torch.zeros(s) for s in ((32, 8), 32, (8, 8), 8, 64, 64, 1)))
    for name in LayerWeights._fields:
        wrong = whole._replace(**{name: torch.zeros(5)})
        with pytest.raises(ValueError, match=rf"{name} of layer 1 is \[5\]; 2 heads of widths 4"):
            Stack([whole, wrong], 2, 4, 4, 20)
    with pytest.raises(ValueError, match="backend 'none' is unknown"):
        Stack([whole], 2, 4, 4, 20, "none")
