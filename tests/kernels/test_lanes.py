"""Whole-row arithmetic against numpy, at widths that fill the lanes and widths that do not."""

from typing import Any

import numpy as np
import pytest
from numba import njit

from kernels.lanes import (
    add_row,
    blend_row,
    copy_row,
    prefetch,
    subtract_scaled,
    sum_of_squares,
)

WIDTHS = (0, 1, 3, 15, 16, 17, 31, 32, 64, 100, 129)
GUARD = np.float32(-77)
ROUNDING = 3e-7
"""Relative, for two float32 operations; a sum of squares of 129 numbers stays within ten times."""

COPY, ADD, SUBTRACT, BLEND = range(4)


@njit
def apply(kind: int, to: Any, source: Any, width: Any, scale: Any, take: Any) -> None:
    to_at, source_at = np.uint64(to.ctypes.data), np.uint64(source.ctypes.data)
    prefetch(to_at)
    if kind == COPY:
        copy_row(to_at, source_at, width)
    elif kind == ADD:
        add_row(to_at, source_at, width)
    elif kind == SUBTRACT:
        subtract_scaled(to_at, source_at, width, scale)
    else:
        blend_row(to_at, source_at, width, scale, take)


@njit
def squares(row: Any, width: Any) -> Any:
    return sum_of_squares(np.uint64(row.ctypes.data), width)


@njit
def ask_for_nothing() -> None:
    prefetch(np.uint64(0))
    prefetch(np.uint64(2**64 - 1))


def row(width: int, seed: int) -> Any:
    """A row one float behind an aligned address, with a guard behind it."""
    numbers = np.random.default_rng(seed).standard_normal(width + 2).astype(np.float32)
    numbers[-1] = GUARD
    return numbers[1:]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", [COPY, ADD, SUBTRACT, BLEND])
def test_a_row_function_does_what_numpy_does_and_no_more(kind: int, width: int) -> None:
    to, source = row(width, 1), row(width, 2)
    before, unchanged = to.astype(np.float64), source.copy()
    scale, take = np.float32(0.9), np.float32(0.1)
    apply(kind, to, source, np.uint64(width), scale, take)
    given = source.astype(np.float64)
    expected = (
        given,
        before + given,
        before - scale * given,
        np.float64(scale) * before + np.float64(take) * given,
    )[kind]
    size = np.abs(before) + np.abs(given)
    assert (np.abs(to - expected)[:width] <= ROUNDING * size[:width]).all()
    assert to[width] == GUARD
    assert (source == unchanged).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_sum_of_squares_is_numpy_s_and_always_the_same_bits(width: int) -> None:
    numbers = row(width, 3)
    expected = (numbers[:width].astype(np.float64) ** 2).sum()
    total = squares(numbers, np.uint64(width))
    assert total == pytest.approx(expected, rel=10 * ROUNDING)
    for offset in range(1, 17):
        elsewhere = np.concatenate([np.zeros(offset, np.float32), numbers])[offset:]
        assert squares(elsewhere, np.uint64(width)) == total


def test_a_copy_is_exact() -> None:
    to, source = row(40, 4), row(40, 5)
    source[:4] = np.nan, np.inf, -0.0, 1e-45
    apply(COPY, to, source, np.uint64(40), np.float32(0), np.float32(0))
    assert (to.view(np.int32) == source.view(np.int32)).all()


def test_any_address_may_be_asked_for() -> None:
    ask_for_nothing()
