"""The Triton attention in every shipped width and type, at the edges of tiles. In the interpreter
the same code runs at tiny sizes, where it proves little.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from benchmarks.attention import Batch, Shape
from kernels.gpu import INTERPRETED
from tests.kernels.attention_gpu.poison import poison_empty_memory

DEVICE = "cpu" if INTERPRETED else "cuda"
LENGTHS = (2, 0, 5) if INTERPRETED else (300, 0, 1, 63, 64, 65, 127, 128, 129)
"""Empty users, one event, a tile less one, a tile, a tile and one."""
HEADS = 1 if INTERPRETED else 4
WIDTHS = (8,) if INTERPRETED else (32, 64, 128, 256)
NAMES = ("out", *"qkv", "distance", "time")

RELATIVE = {
    # Norm of the error over the norm of the result. bf16: weights and gradients rounded to 8 bits
    # before they enter a product. fp32: sums of up to 8,192 terms, tables of 33 million, each a few
    # units of 2^-24 off.
    torch.bfloat16: 1.5e-2,
    torch.float32: 1e-4,
}


@pytest.fixture(autouse=True)
def _empty_memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_empty_memory(monkeypatch)


def with_gradients(batch: Batch, backend: str, biased: bool = True) -> list[Tensor]:
    out = batch.attend(backend, biased)
    learned = batch.learned if biased else batch.learned[:3]
    return [out.detach(), *torch.autograd.grad(out, learned, batch.grad_out)]


def exact_of(batch: Batch) -> Batch:
    """The very same numbers in fp64, on the same device."""
    shape = batch.shape
    exact = Batch(
        Shape(1, shape.length, shape.heads, shape.width, torch.float64, shape.device), [1]
    )
    exact.q, exact.k, exact.v, exact.grad_out, exact.distance_bias, exact.time_bias = (
        t.detach().double().requires_grad_()
        for t in (batch.q, batch.k, batch.v, batch.grad_out, batch.distance_bias, batch.time_bias)
    )
    exact.rows, exact.events = batch.rows, batch.events
    return exact


def assert_like_the_reference(batch: Batch, biased: bool = True) -> None:
    found = with_gradients(batch, "triton", biased)
    expected = with_gradients(exact_of(batch), "reference", biased)
    for name, a, b in zip(NAMES, found, expected, strict=False):
        error = (a.double() - b).norm() / b.norm()
        assert error <= RELATIVE[batch.shape.dtype], f"{name}: {error:.1e}"


def batch_of(lengths: Sequence[int], heads: int, width: int, dtype: torch.dtype) -> Batch:
    return Batch(Shape(len(lengths), max(lengths), heads, width, dtype, DEVICE), list(lengths))


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_at_the_edges_of_tiles(width: int, dtype: torch.dtype) -> None:
    assert_like_the_reference(batch_of(LENGTHS, HEADS, width, dtype))
