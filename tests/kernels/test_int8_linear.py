"""A linear layer in 8-bit integers: one result for all backends, near what its codes stand for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from kernels.int8_linear import cpu, int8_linear
from kernels.int8_linear.reference import quantized

SIZES = st.one_of(
    st.floats(-4, 4, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1e-45, -1e-38, 9e-31, 2e-30, 0.5, 63.5, -127.0]),
)


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, ...]:
    rows, inputs, channels = (draw(st.integers(1, most)) for most in (5, 40, 9))
    x_RI = draw(arrays.arrays(np.float32, (rows, inputs), elements=SIZES))
    weight_OI = draw(arrays.arrays(np.int8, (channels, inputs), elements=st.integers(-127, 127)))
    make = torch.Generator().manual_seed(rows)
    scale_O, bias_O = torch.rand(channels, generator=make), torch.randn(channels, generator=make)
    return torch.from_numpy(x_RI), torch.from_numpy(weight_OI), scale_O, bias_O


def layer_of(rows: int, inputs: int, channels: int) -> tuple[Tensor, ...]:
    make = torch.Generator().manual_seed(0)
    weight_OI = torch.randint(-127, 128, (channels, inputs), dtype=torch.int8, generator=make)
    scale_O, bias_O = torch.rand(channels, generator=make), torch.randn(channels, generator=make)
    return torch.randn(rows, inputs, generator=make), weight_OI, scale_O, bias_O


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int32)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(layers())
def test_backends_give_the_same_bits(layer: tuple[Tensor, ...]) -> None:
    found, wanted = int8_linear(*layer), int8_linear(*layer, backend="reference")
    finite = wanted.isfinite()
    assert torch.equal(found.isfinite(), finite)
    assert torch.equal(bits(found)[finite], bits(wanted)[finite])


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (33, 64, 256), (2, 2048, 3), (0, 4, 2)])
def test_numbers_are_those_that_the_codes_stand_for(
    backend: str, shape: tuple[int, int, int]
) -> None:
    x_RI, weight_OI, scale_O, bias_O = layer_of(*shape)
    codes_RI, scale_R = quantized(x_RI)
    x, weight = codes_RI.double() * scale_R.double()[:, None], weight_OI.double()
    wanted = x @ (weight * scale_O.double()[:, None]).T + bias_O.double()
    found = int8_linear(x_RI, weight_OI, scale_O, bias_O, backend)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5 * shape[1])


def test_a_component_is_off_by_at_most_half_its_rows_scale() -> None:
    x_RI = torch.randn(50, 64, generator=torch.Generator().manual_seed(3)) * 7
    codes_RI, scale_R = quantized(x_RI)
    assert codes_RI.abs().amax(1).eq(127).all()
    error_RI = (codes_RI * scale_R[:, None] - x_RI).abs()
    assert (error_RI <= scale_R[:, None] / 2 * (1 + 1e-5)).all()


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_gives_nan_and_leaves_the_others_alone(
    backend: str, bad: float
) -> None:
    x_RI, *layer = layer_of(3, 8, 4)
    clean = int8_linear(x_RI, *layer, backend=backend)
    x_RI[1, 5] = bad
    found = int8_linear(x_RI, *layer, backend=backend)
    assert found[1].isnan().all()
    assert torch.equal(found[::2], clean[::2])


def test_a_row_of_nothing_gives_the_bias() -> None:
    x_RI, *layer, bias_O = layer_of(2, 8, 4)
    assert torch.equal(int8_linear(torch.zeros_like(x_RI), *layer, bias_O), bias_O.expand(2, 4))


@pytest.mark.parametrize("inputs", [64, 2048])
def test_a_torch_that_does_not_multiply_bytes_gives_the_same_bits(monkeypatch, inputs: int) -> None:
    layer = layer_of(9, inputs, 33)
    monkeypatch.setattr(cpu, "multiplies_bytes", lambda: False)
    assert torch.equal(int8_linear(*layer), int8_linear(*layer, backend="reference"))


def test_sums_at_the_edge_of_32_bits_are_exact() -> None:
    inputs = (2**31 - 1) // 127**2
    x_RI, weight_OI = torch.ones(1, inputs), torch.full((1, inputs), 127, dtype=torch.int8)
    one = torch.ones(1)
    assert cpu.sums(torch.full((1, inputs), 127, dtype=torch.int8), weight_OI) == 127**2 * inputs
    with pytest.raises(ValueError, match=f"there are {inputs + 1} inputs"):
        int8_linear(x_RI.new_ones(1, inputs + 1), weight_OI.new_ones(1, inputs + 1), one, one)


def test_what_does_not_fit_is_refused() -> None:
    x_RI, weight_OI, scale_O, bias_O = layer_of(2, 8, 4)
    with pytest.raises(TypeError, match=r"rows are torch\.float64; pass torch\.float32"):
        int8_linear(x_RI.double(), weight_OI, scale_O, bias_O)
    with pytest.raises(TypeError, match=r"weights are torch\.float32; pass torch\.int8"):
        int8_linear(x_RI, weight_OI.float(), scale_O, bias_O)
    with pytest.raises(ValueError, match=r"weights are \[4, 8\] with \(3, 4\) scales and biases"):
        int8_linear(x_RI, weight_OI, scale_O[:3], bias_O)
    with pytest.raises(ValueError, match=r"does not fit rows \[2, 7\]"):
        int8_linear(x_RI[:, :7], weight_OI, scale_O, bias_O)
    with pytest.raises(ValueError, match="backend 'fast' is unknown"):
        int8_linear(x_RI, weight_OI, scale_O, bias_O, "fast")


def test_a_torch_without_such_a_product_or_with_a_wrong_one_is_not_asked_for_it(
    monkeypatch,
) -> None:
    def refuses(a: Tensor, b: Tensor) -> Tensor:
        raise RuntimeError("not implemented for 'CPU'")

    def cuts_off(a: Tensor, b: Tensor) -> Tensor:
        """As processors without VNNI do: bytes without a sign times bytes with one, two products
        at a time, in 16 bits."""
        pairs = (a.int() + 128)[:, None, :] * b.T.int()[None]
        summed = pairs.unflatten(2, (-1, 2)).sum(3).clamp(-(2**15), 2**15 - 1).sum(2)
        return (summed - 128 * b.int().sum(0)).int()

    def multiplies(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double()).int()

    for product, is_asked in ((refuses, False), (cuts_off, False), (multiplies, True)):
        monkeypatch.setattr(torch, "_int_mm", product)
        assert cpu.multiplies_bytes.__wrapped__() is is_asked
