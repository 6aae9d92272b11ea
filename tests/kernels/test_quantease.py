"""QuantEase: a minimum by coordinates, never worse than rounding, warm starts, outliers."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.quantease import GridCodes, fitted, nearest, output_error
from kernels.quantease.grid import LEVELS, levels

PROPERTY = settings(derandomize=True, deadline=None, max_examples=150)


class Case:
    """A layer: its weights and the second moments of its inputs, of any rank and condition."""

    def __init__(self, outputs: int, inputs: int, samples: int, falls: float, seed: int) -> None:
        make = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(outputs, inputs, generator=make) * inputs**-0.5
        mixing = torch.randn(inputs, inputs, generator=make)
        spread = 10.0 ** (-falls * torch.arange(inputs) / inputs)
        x_NI = torch.randn(samples, inputs, generator=make) * spread @ mixing
        x_NI[:, torch.rand(inputs, generator=make) < 0.2] = 0
        self.moments = x_NI.T @ x_NI / samples

    def error(self, codes: GridCodes) -> Tensor:
        return output_error(self.weight, self.moments, codes.decode())


CASES = st.builds(
    Case, st.integers(1, 6), st.integers(1, 12), st.integers(1, 30), st.sampled_from([0.0, 4, 8]),
    st.integers(0, 10_000),
)  # fmt: skip
SHARES = st.sampled_from([0.0, 0.01, 0.1, 1.0])


def wide(outputs: int = 48, inputs: int = 64, seed: int = 0) -> Case:
    return Case(outputs, inputs, 4 * inputs, 1.5, seed)


@PROPERTY
@given(CASES, SHARES)
def test_at_the_end_no_change_of_a_single_code_makes_it_better(case: Case, share: float) -> None:
    codes = fitted(case.weight, case.moments, passes=10_000, outliers=share)
    decoded, error = codes.decode(), case.error(codes)
    flat = set(codes.places_S.tolist())
    level = torch.from_numpy(levels(codes.scale_O.numpy(), codes.zero_O.numpy()))
    slack = 1e-9 * (1e-30 + output_error(case.weight, case.moments, torch.zeros_like(decoded)))
    for place in set(range(decoded.numel())) - flat:
        o, i = divmod(place, decoded.shape[1])
        for value in level[o]:
            other = decoded.clone()
            other[o, i] = value
            changed = output_error(case.weight, case.moments, other)
            assert changed[o] >= error[o] - slack[o]


@PROPERTY
@given(CASES, SHARES, st.integers(0, 3))
def test_no_channel_is_worse_than_rounded_to_nearest(case: Case, share: float, passes: int) -> None:
    found = case.error(fitted(case.weight, case.moments, passes=passes, outliers=share))
    assert (found <= case.error(nearest(case.weight))).all()
    assert (found.sum() <= case.error(nearest(case.weight)).sum()).all()


@PROPERTY
@given(CASES, CASES)
def test_nor_with_a_warm_start_of_something_else(case: Case, other: Case) -> None:
    shape, make = case.weight.shape, torch.Generator().manual_seed(1)
    warm = nearest(torch.randn(shape, generator=make) * float(other.weight.std(correction=0) + 1))
    found = case.error(fitted(case.weight, case.moments, warm, passes=1))
    assert (found <= case.error(nearest(case.weight))).all()


@PROPERTY
@given(CASES, SHARES)
def test_no_pass_makes_it_worse(case: Case, share: float) -> None:
    before = case.error(fitted(case.weight, case.moments, passes=0, outliers=share))
    for passes in range(1, 6):
        after = case.error(fitted(case.weight, case.moments, passes=passes, outliers=share))
        assert (after <= before + 1e-12 * before.abs() + 1e-18).all()
        before = after


@PROPERTY
@given(CASES, SHARES, st.integers(0, 4))
def test_the_backends_agree(case: Case, share: float, passes: int) -> None:
    fast, plain = (
        fitted(case.weight, case.moments, passes=passes, outliers=share, backend=backend)
        for backend in ("numba", "reference")
    )
    whole = output_error(case.weight, case.moments, torch.zeros_like(case.weight))
    # On inputs that are nearly dependent two levels may be as good as each other.
    assert torch.allclose(case.error(fast), case.error(plain), rtol=1e-6, atol=1e-9 * whole.max())


def test_the_backends_choose_the_same_codes_where_no_two_are_alike() -> None:
    case = wide()
    fast, plain = (
        fitted(case.weight, case.moments, passes=6, backend=backend)
        for backend in ("numba", "reference")
    )
    for name in ("codes_OI", "scale_O", "zero_O", "places_S", "values_S"):
        assert torch.equal(getattr(fast, name), getattr(plain, name)), name


def test_the_same_arguments_give_the_same_bits_whatever_the_threads() -> None:
    case, threads = wide(), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = fitted(case.weight, case.moments)
        torch.set_num_threads(2)
        other = fitted(case.weight.clone(), case.moments.clone())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one.codes_OI, other.codes_OI)
    assert torch.equal(one.decode(), other.decode())


def test_inputs_that_are_always_zero_are_just_rounded_warm_or_not() -> None:
    case = wide()
    dead = [3, 17]
    case.moments[dead], case.moments[:, dead] = 0, 0
    rounded = nearest(case.weight)
    live = [i for i in range(64) if i not in dead]
    warm = nearest(torch.randn(case.weight.shape, generator=torch.Generator().manual_seed(2)))
    for start in (None, warm):
        codes = fitted(case.weight, case.moments, start, outliers=0)
        assert torch.equal(codes.codes_OI[:, dead], rounded.codes_OI[:, dead])
        assert not torch.equal(codes.codes_OI[:, live], rounded.codes_OI[:, live])


def test_without_any_inputs_seen_all_is_rounded() -> None:
    case = wide()
    codes = fitted(case.weight, torch.zeros(64, 64))
    assert torch.equal(codes.decode(), nearest(case.weight, outliers=0.01).decode())


def test_with_inputs_that_do_not_hang_together_rounding_is_best() -> None:
    case = wide()
    codes = fitted(case.weight, torch.diag(torch.rand(64) + 0.1), outliers=0)
    assert torch.equal(codes.codes_OI, nearest(case.weight).codes_OI)


def test_two_warm_passes_are_as_good_as_twenty_cold_ones_however_it_drifts() -> None:
    """Also where all weights go one way for long: old codes alone would be stuck in old minima."""
    case, make = wide(128, 128), torch.Generator().manual_seed(3)
    warm = fitted(case.weight, case.moments)
    way = torch.randn(case.weight.shape, generator=make) * case.weight.std()
    for _ in range(20):
        drift = torch.randn(case.weight.shape, generator=make) * case.weight.std()
        case.weight = case.weight + 0.005 * drift + 0.015 * way
        warm = fitted(case.weight, case.moments, warm, passes=2)
        cold = fitted(case.weight, case.moments)
        assert case.error(warm).sum() <= case.error(cold).sum()
    two = fitted(case.weight, case.moments, passes=2)
    assert case.error(warm).sum() < 0.9 * case.error(two).sum()


def test_what_is_as_it_was_only_gets_better() -> None:
    case = wide()
    before = fitted(case.weight, case.moments, passes=2)
    for _ in range(3):
        after = fitted(case.weight, case.moments, before, passes=1)
        assert case.error(after).sum() <= case.error(before).sum() * (1 + 1e-12)
        before = after


def test_it_is_much_better_than_rounding_and_outliers_help() -> None:
    case = wide(128, 128)
    case.weight[::7, 5] *= 6
    rounded, plain = nearest(case.weight), fitted(case.weight, case.moments, outliers=0)
    with_outliers = fitted(case.weight, case.moments)
    assert case.error(plain).sum() < 0.5 * case.error(rounded).sum()
    assert case.error(with_outliers).sum() < 0.7 * case.error(plain).sum()


def test_outliers_are_exact_and_the_grid_spans_the_others() -> None:
    weight = torch.linspace(-1, 1, 200).view(2, 100)
    weight[0, 4], weight[1, 9] = 50, -70
    codes = fitted(weight, torch.eye(100))
    assert codes.places_S.tolist() == [4, 109]
    assert codes.values_S.tolist() == [50, -70]
    assert codes.decode()[0, 4] == 50
    assert codes.decode()[1, 9] == -70
    assert torch.allclose(codes.scale_O * (LEVELS - 1), torch.tensor([0.99497, 0.99497]))
    assert torch.allclose(codes.zero_O, torch.tensor([-1, 0.00503]), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 3), (0, 4)])
def test_tiny_matrices(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    codes = fitted(weight, torch.eye(shape[1]))
    assert codes.decode().shape == shape
    if shape[1] == 1:
        assert torch.equal(codes.decode(), weight)


def test_channels_that_are_constant_are_exact() -> None:
    weight = torch.tensor([[0.3] * 8, [0.0] * 8, [-1e-30] * 8])
    case = Case(3, 8, 20, 0, 0)
    assert torch.equal(fitted(weight, case.moments).decode(), weight)


def test_what_cannot_be_fitted_is_named() -> None:
    weight, eye = torch.ones(2, 3), torch.eye(3)
    with pytest.raises(ValueError, match=r"moments are \[2, 2\]; a weight with 3 inputs needs"):
        fitted(weight, torch.eye(2))
    with pytest.raises(ValueError, match=r"weight is torch\.float64"):
        fitted(weight.double(), eye)
    with pytest.raises(ValueError, match=r"\[2, 0\]; pass a float32 matrix with inputs"):
        fitted(weight[:, :0], eye[:0, :0])
    with pytest.raises(ValueError, match="weight has NaN"):
        fitted(torch.full((2, 3), torch.nan), eye)
    with pytest.raises(ValueError, match="moments has NaN"):
        fitted(weight, torch.full((3, 3), torch.inf))
    with pytest.raises(ValueError, match="negative diagonal"):
        fitted(weight, -eye)
    with pytest.raises(ValueError, match=r"warm codes are \[1, 3\], the weight is \[2, 3\]"):
        fitted(weight, eye, nearest(weight[:1]))


def test_twenty_passes_take_well_below_a_second() -> None:
    case = wide(256, 256)
    fitted(case.weight, case.moments, passes=1)
    began = time.thread_time()
    fitted(case.weight, case.moments)
    assert time.thread_time() - began < 0.5
