"""The Triton gate against the reference in fp64; run by test_interpreted.py and on a GPU."""

import pytest
import torch
from torch import Tensor

from kernels.gating import gated
from kernels.gpu import INTERPRETED
from tests.kernels.attention_gpu.poison import poison_empty_memory

DEVICE = "cpu" if INTERPRETED else "cuda"
EPS = 1e-6

RELATIVE = {
    # A mean and a variance of up to 600 numbers: a few units of 2^-24.
    torch.float32: 2e-6,
    # Computed in fp32, cut to 8 bits once: 2^-8 (the interpreter cuts, a GPU rounds).
    torch.bfloat16: 4e-3,
}


@pytest.fixture(autouse=True)
def _empty_memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_empty_memory(monkeypatch)


def with_gradients(inputs: tuple[Tensor, ...], backend: str) -> list[Tensor]:
    attended, gate = (t.clone().requires_grad_() for t in inputs[:2])
    out = gated(attended, gate, EPS, backend)
    out.backward(inputs[2])
    return [out.detach(), attended.grad, gate.grad]


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize(("rows", "width"), [(0, 8), (1, 1), (3, 600), (70, 64), (5, 5000)])
def test_output_and_both_gradients_are_the_references(
    rows: int, width: int, dtype: torch.dtype
) -> None:
    make = torch.Generator().manual_seed(rows)
    inputs = tuple(
        (torch.randn(rows, width, generator=make) + shift).to(DEVICE, dtype)
        for shift in (3.0, 0.0, 0.0)
    )
    found = with_gradients(inputs, "triton")
    expected = with_gradients(tuple(t.cpu().double() for t in inputs), "reference")
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        assert a.shape == b.shape
        assert (a.cpu().double() - b).norm() <= RELATIVE[dtype] * (b.norm() + 1e-3)


def test_a_row_of_equal_numbers_is_zero_and_has_finite_gradients() -> None:
    equal = torch.full((2, 16), 4.0, device=DEVICE)
    found = with_gradients((equal, equal, equal), "triton")
    assert not found[0].any()
    assert all(bool(t.isfinite().all()) for t in found)


def test_shapes_and_types_that_differ_are_refused() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"the gate is float32 \[2, 4\], what it gates float32"):
        gated(x, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="both need one shape and one type"):
        gated(x, x.bfloat16())
