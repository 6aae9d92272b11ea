"""Products of coded rows against numpy, at widths that fill the lanes and widths that do not."""

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

from kernels.row_codes import Codes, decode, encode
from kernels.row_dots import (
    dot_codes,
    dot_codes4,
    dot_floats,
    dot_halves,
    lanes_above,
    sums_of_codes,
    sums_of_codes4,
)

WIDTHS = (1, 2, 15, 16, 18, 31, 32, 64, 100, 130)
FLOATS, HALVES, CODES, CODES4 = range(4)


@njit
def product(kind: int, row: Any, vector: Any, width: Any, scale: Any, bias: Any) -> Any:
    row_at, vector_at = np.uint64(row.ctypes.data), np.uint64(vector.ctypes.data)
    if kind == FLOATS:
        return dot_floats(row_at, vector_at, width)
    if kind == HALVES:
        return dot_halves(row_at, vector_at, width)
    if kind == CODES:
        return dot_codes(row_at, vector_at, width, scale, bias)
    return dot_codes4(row_at, vector_at, width, scale, bias)


@njit
def sums(bits: int, rows: Any, row_bytes: Any, weights: Any, out: Any) -> None:
    rows_at, weights_at = np.uint64(rows.ctypes.data), np.uint64(weights.ctypes.data)
    parts, out_at = np.uint64(len(weights) // 32), np.uint64(out.ctypes.data)
    if bits == 8:
        sums_of_codes(rows_at, row_bytes, weights_at, parts, out_at)
    else:
        sums_of_codes4(rows_at, row_bytes, weights_at, parts, out_at)


@njit
def above(numbers: Any, threshold: Any) -> Any:
    return lanes_above(np.uint64(numbers.ctypes.data), threshold)


def bytes_behind(row: torch.Tensor) -> Any:
    """A row's bytes one byte behind an aligned address, with NaN and large codes around them."""
    guarded = np.full(row.nbytes + 65, 255, np.uint8)
    guarded[1 : row.nbytes + 1] = row.view(torch.uint8).numpy()
    return guarded[1:]


def given(width: int, of: int = 1) -> tuple[torch.Tensor, Any]:
    make = torch.Generator().manual_seed(width)
    return torch.randn(of, width, generator=make), torch.randn(width, generator=make).numpy()


def dotted(kind: int, row: torch.Tensor, vector: Any, codes: Codes | None = None) -> Any:
    scale, bias = (np.float32(0),) * 2
    if codes is not None:
        scale, bias = (np.float32(part[0].item()) for part in (codes.scale_R, codes.bias_R))
    return product(kind, bytes_behind(row), vector, np.uint64(len(vector)), scale, bias)


@pytest.mark.parametrize("width", WIDTHS)
def test_products_are_numpys(width: int) -> None:
    rows, vector = given(width)
    expected = rows[0].double().numpy() @ vector.astype(np.float64)
    np.testing.assert_allclose(dotted(FLOATS, rows[0], vector), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_precision_gives_the_bits_of_what_it_decodes_to(width: int) -> None:
    rows, vector = given(width)
    halves = rows.half()
    halves[0, 0] = 3e-7  # no normal number
    found = dotted(HALVES, halves[0], vector)
    assert found == dotted(FLOATS, halves[0].float(), vector)
    for kind, bits in ((CODES, 8), (CODES4, 4)):
        if bits == 4 and width % 2:
            continue
        codes = encode(rows, bits)
        found = dotted(kind, codes.codes_RB[0], vector, codes)
        assert found == dotted(FLOATS, decode(codes)[0], vector)


@pytest.mark.parametrize("width", [w for w in WIDTHS if w % 2 == 0])
@pytest.mark.parametrize("bits", [8, 4])
def test_sums_of_sixteen_rows_are_exact(width: int, bits: int) -> None:
    codes = encode(given(width, of=16)[0], bits)
    packed = codes.codes_RB.numpy()
    levels = packed if bits == 8 else np.stack([packed & 15, packed >> 4], 2).reshape(16, -1)
    weights = np.zeros(-(-width // 32) * 32, np.int16)
    weights[:width] = np.random.default_rng(width).integers(-(2**15), 2**15, width)
    out = np.zeros(17, np.int32)
    guarded = np.full(packed.size + 64, 255, np.uint8)
    guarded[: packed.size] = packed.reshape(-1)
    sums(bits, guarded, np.uint64(packed.shape[1]), weights, out[:16])
    expected = levels.astype(np.int64) @ weights[:width].astype(np.int64)
    assert out.tolist() == [*expected.tolist(), 0]


def test_the_numbers_above_are_told_as_bits() -> None:
    numbers = np.array([1, 3, -np.inf, np.nan, 2, np.inf, *[0] * 9, 5], np.float32)
    assert above(numbers, np.float32(2)) == 1 << 1 | 1 << 5 | 1 << 15
    assert above(numbers, np.float32(-np.inf)) == 0xFFFF - (1 << 2 | 1 << 3)
