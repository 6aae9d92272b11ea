"""Row codes: the error bound, exactness where it is promised, and one decoding for all backends."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kernels.row_codes import Codes, decode, encode, gather_decode, widened

BACKENDS = ("reference", "numba")
COMPONENTS = st.one_of(
    st.floats(-65504, 65504, width=32),
    st.floats(-1, 1, width=32),
    st.floats(-(2.0**-20), 2.0**-20, width=32),
    st.sampled_from([0.0, -0.0, 65504.0, -65504.0, 2.0**-24, -(2.0**-25), 1e-45]),
)
ROWS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 20), st.integers(1, 10).map(lambda pairs: 2 * pairs)),
    elements=COMPONENTS,
)
BITS = (8, 4)


def half_steps(codes: Codes, rows: torch.Tensor) -> torch.Tensor:
    """The bound by component: half a scale, the float32 rounding of the sum, and the spread
    (below 2^-141) of which the 255th part is nothing to float32."""
    ulp = torch.maximum(rows.abs(), codes.bias_R.float().abs()[:, None]) * 2.0**-22
    return codes.scale_R.float()[:, None] / 2 * (1 + 2.0**-14) + ulp + 2.0**-141


@settings(derandomize=True, deadline=None, max_examples=400)
@given(ROWS, st.sampled_from(BITS))
def test_no_component_is_off_by_more_than_half_a_scale(array: np.ndarray, bits: int) -> None:
    rows, levels = torch.from_numpy(array), 2**bits - 1
    codes = encode(rows, bits)
    assert ((decode(codes) - rows).abs().double() <= half_steps(codes, rows).double()).all()
    spread = (rows.amax(1) - rows.amin(1)).double()
    # One float16 step wider than the row's own spread, plus what rounding the bias down added.
    bias_step = torch.maximum(rows.abs().amax(1).double() * 2.0**-10, torch.tensor(2.0**-24))
    assert (
        codes.scale_R.double() <= (spread + bias_step) / levels * (1 + 2.0**-10) + 2.0**-24
    ).all()


@settings(derandomize=True, deadline=None, max_examples=300)
@given(ROWS, st.sampled_from(BITS))
def test_backends_encode_and_decode_to_the_same_bits(array: np.ndarray, bits: int) -> None:
    rows = torch.from_numpy(array)
    fast, plain = encode(rows, bits), encode(rows, bits, backend="reference")
    assert fast.bits == plain.bits == bits
    assert all(torch.equal(a, b) for a, b in zip(fast[:3], plain[:3], strict=True))
    patterns = [decode(fast, backend).view(torch.int32) for backend in BACKENDS]
    assert torch.equal(patterns[0], patterns[1])


def test_four_bits_pack_two_components_into_a_byte_the_low_half_first() -> None:
    codes = encode(torch.tensor([[0.0, 15.0, 3.0, 9.0]]), bits=4)
    assert codes.codes_RB.tolist() == [[0xF0, 0x93]]
    assert (codes.scale_R.item(), codes.bias_R.item(), codes.width) == (1.0, 0.0, 4)
    assert decode(codes).tolist() == [[0.0, 15.0, 3.0, 9.0]]


def test_rows_that_cannot_share_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="rows are 3 wide: two codes of 4 bits share a byte"):
        encode(torch.zeros(2, 3), bits=4)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -0.5, 65504.0, -65504.0, 2.0**-24, 0.125])
def test_a_constant_row_at_a_float16_number_is_exact(value: float, bits: int) -> None:
    codes = encode(torch.full((2, 8), value), bits)
    assert torch.equal(decode(codes), torch.full((2, 8), value))
    assert not codes.scale_R.any()


@pytest.mark.parametrize(("bits", "of_size", "at_least"), [(8, -19, -25), (4, -14, -24)])
def test_any_other_constant_row_is_close_to_it(bits: int, of_size: int, at_least: int) -> None:
    draw = torch.Generator().manual_seed(3)
    sizes = 2.0 ** (torch.rand(5000, 1, generator=draw) * 40 - 25) * torch.tensor(
        [[1.0], [-1.0]]
    ).repeat(2500, 1)
    values = torch.cat(
        [sizes.clamp(-65504, 65504), torch.tensor([[0.1], [-0.3], [1000.3], [-1e-7]])]
    )
    found = decode(encode(values.repeat(1, 8), bits))
    bound = (values.abs() * 2.0**of_size).clamp(min=2.0**at_least)
    assert ((found - values).abs() <= bound).all()


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
    half = encode(rows, bits=4)
    assert half.nbytes == 1000 * 36 <= 0.15 * rows.nbytes
    assert (decode(half) - rows).norm() / rows.norm() < 0.1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 5), (3, 1), (7, 13), (2, 257)])
def test_odd_shapes(backend: str, shape: tuple[int, int]) -> None:
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    codes = encode(rows, backend=backend)
    assert codes.codes_RB.shape == shape
    assert ((decode(codes, backend) - rows).abs() <= half_steps(codes, rows)).all()


def test_rows_without_components_are_coded_as_nothing() -> None:
    for bits in BITS:
        assert decode(encode(torch.zeros(4, 0), bits)).shape == (4, 0)
        assert decode(encode(torch.zeros(0, 4), bits)).shape == (0, 4)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gather_decode_takes_rows_in_any_order_with_repeats(backend: str, bits: int) -> None:
    codes = encode(torch.randn(10, 6, generator=torch.Generator().manual_seed(2)), bits)
    rows = torch.tensor([9, 0, 3, 3, 9])
    assert torch.equal(gather_decode(codes, rows, backend), decode(codes)[rows])
    assert gather_decode(codes, rows[:0], backend).shape == (0, 6)
    for outside in (-1, 10):
        with pytest.raises(IndexError, match=rf"row {outside} is outside 0 \.\. 9"):
            gather_decode(codes, torch.tensor([1, outside]), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_gather_decode_takes_rows_of_numbers_too(backend: str, kind: torch.dtype) -> None:
    values = torch.randn(10, 6, generator=torch.Generator().manual_seed(2)).to(kind)
    rows = torch.tensor([9, 0, 3, 3, 9])
    found = gather_decode(values, rows, backend)
    assert found.dtype == torch.float32
    assert torch.equal(found, values.float()[rows])
    for outside in (-1, 10):
        with pytest.raises(IndexError, match=rf"row {outside} is outside 0 \.\. 9"):
            gather_decode(values, torch.tensor([1, outside]), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bits", BITS)
def test_gather_decode_rounds_to_bfloat16_once(backend: str, bits: int) -> None:
    codes = encode(torch.randn(10, 6, generator=torch.Generator().manual_seed(2)), bits)
    rows = torch.tensor([9, 0, 3])
    found = gather_decode(codes, rows, backend, torch.bfloat16)
    assert torch.equal(found, decode(codes)[rows].bfloat16())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf"), 7e4])
def test_what_float16_cannot_span_is_refused_with_its_row(backend: str, bad: float) -> None:
    rows = torch.zeros(4, 40)
    rows[2, 33] = bad
    with pytest.raises(ValueError, match="row 2 spans"):
        encode(rows, backend=backend)


def test_other_widths_of_code_and_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="bits = 2: rows are coded with 8 bits or 4"):
        encode(torch.zeros(1, 2), bits=2)
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


def test_four_bits_widened_to_eight_decode_to_the_same_bits() -> None:
    codes = encode(torch.randn(9, 6, generator=torch.Generator().manual_seed(1)), bits=4)
    wide = widened(codes)
    assert (wide.bits, wide.width, wide.codes_RB.shape) == (8, 6, (9, 6))
    assert torch.equal(decode(wide).view(torch.int32), decode(codes).view(torch.int32))
    assert widened(wide) is wide
