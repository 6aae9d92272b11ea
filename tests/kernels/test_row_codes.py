"""Row codes: the error bound, exactness where it is promised, and one decoding for all backends."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kernels.row_codes import Codes, decode, encode, gather_decode

BACKENDS = ("reference", "numba")
COMPONENTS = st.one_of(
    st.floats(-65504, 65504, width=32),
    st.floats(-1, 1, width=32),
    st.floats(-(2.0**-20), 2.0**-20, width=32),
    st.sampled_from([0.0, -0.0, 65504.0, -65504.0, 2.0**-24, -(2.0**-25), 1e-45]),
)
ROWS = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=COMPONENTS
)


def half_steps(codes: Codes, rows: torch.Tensor) -> torch.Tensor:
    """The bound by component: half a scale, the float32 rounding of the sum, and the spread
    (below 2^-141) of which the 255th part is nothing to float32."""
    ulp = torch.maximum(rows.abs(), codes.bias_R.float().abs()[:, None]) * 2.0**-22
    return codes.scale_R.float()[:, None] / 2 * (1 + 2.0**-14) + ulp + 2.0**-141


@settings(derandomize=True, deadline=None, max_examples=300)
@given(ROWS)
def test_no_component_is_off_by_more_than_half_a_scale(array: np.ndarray) -> None:
    rows = torch.from_numpy(array)
    codes = encode(rows)
    assert ((decode(codes) - rows).abs().double() <= half_steps(codes, rows).double()).all()
    spread = (rows.amax(1) - rows.amin(1)).double()
    # One float16 step wider than the row's own spread, plus what rounding the bias down added.
    bias_step = torch.maximum(rows.abs().amax(1).double() * 2.0**-10, torch.tensor(2.0**-24))
    assert (codes.scale_R.double() <= (spread + bias_step) / 255 * (1 + 2.0**-10) + 2.0**-24).all()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(ROWS)
def test_backends_encode_and_decode_to_the_same_bits(array: np.ndarray) -> None:
    rows = torch.from_numpy(array)
    fast, plain = encode(rows), encode(rows, backend="reference")
    assert all(torch.equal(a, b) for a, b in zip(fast, plain, strict=True))
    bits = [decode(fast, backend).view(torch.int32) for backend in BACKENDS]
    assert torch.equal(bits[0], bits[1])


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -0.5, 65504.0, -65504.0, 2.0**-24, 0.125])
def test_a_constant_row_at_a_float16_number_is_exact(value: float) -> None:
    codes = encode(torch.full((2, 9), value))
    assert torch.equal(decode(codes), torch.full((2, 9), value))
    assert not codes.scale_R.any()


@pytest.mark.parametrize("value", [0.1, -0.3, 1000.3, 3e-5, -1e-7])
def test_any_other_constant_row_is_within_2_to_the_minus_19_of_it(value: float) -> None:
    found = decode(encode(torch.full((1, 9), value)))
    assert (found - value).abs().max() <= max(abs(value) * 2.0**-19, 2.0**-25)


def test_one_outlier_widens_only_its_own_row() -> None:
    rows = torch.linspace(-0.1, 0.1, 64).repeat(3, 1)
    rows[1, 5] = 40.0
    codes = encode(rows)
    error = (decode(codes) - rows).abs().amax(1)
    assert error[1] <= 40.2 / 255 / 2 * 1.001
    assert error[0] == error[2] <= 0.2 / 255 / 2 * 1.01


def test_rows_of_dim_64_take_at_most_27_percent_of_float32() -> None:
    rows = torch.randn(1000, 64, generator=torch.Generator().manual_seed(0)) * 0.05
    codes = encode(rows)
    assert codes.nbytes == 1000 * 68 <= 0.27 * rows.nbytes
    assert (decode(codes) - rows).norm() / rows.norm() < 0.006


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 5), (3, 1), (7, 13), (2, 257)])
def test_odd_shapes(backend: str, shape: tuple[int, int]) -> None:
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    codes = encode(rows, backend=backend)
    assert codes.codes_RD.shape == shape
    assert ((decode(codes, backend) - rows).abs() <= half_steps(codes, rows)).all()


def test_rows_without_components_are_coded_as_nothing() -> None:
    assert decode(encode(torch.zeros(4, 0))).shape == (4, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gather_decode_takes_rows_in_any_order_with_repeats(backend: str) -> None:
    codes = encode(torch.randn(10, 7, generator=torch.Generator().manual_seed(2)))
    rows = torch.tensor([9, 0, 3, 3, 9])
    assert torch.equal(gather_decode(codes, rows, backend), decode(codes)[rows])
    assert gather_decode(codes, rows[:0], backend).shape == (0, 7)
    for outside in (-1, 10):
        with pytest.raises(IndexError, match=rf"row {outside} is outside 0 \.\. 9"):
            gather_decode(codes, torch.tensor([1, outside]), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf"), 7e4])
def test_what_float16_cannot_span_is_refused_with_its_row(backend: str, bad: float) -> None:
    rows = torch.zeros(4, 40)
    rows[2, 33] = bad
    with pytest.raises(ValueError, match="row 2 spans"):
        encode(rows, backend=backend)


def test_other_widths_of_code_and_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="bits = 4"):
        encode(torch.zeros(1, 2), bits=4)
    with pytest.raises(TypeError, match="float32"):
        encode(torch.zeros(1, 2).double())
    with pytest.raises(TypeError, match="float32"):
        encode(torch.zeros(2))


def test_every_finite_float16_scale_is_read_right() -> None:
    """The numba backend widens float16 by hand."""
    halves = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    halves = halves[halves.isfinite()]
    codes = Codes(torch.ones(len(halves), 1, dtype=torch.uint8), torch.zeros_like(halves), halves)
    assert torch.equal(decode(codes)[:, 0], halves.float())
