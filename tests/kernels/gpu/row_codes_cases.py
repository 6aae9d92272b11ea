"""Rows that Triton gathers and decodes are the reference's, bit for bit; run by test_interpreted.py
and on a GPU."""

import pytest
import torch
from torch import Tensor

from kernels.gpu import INTERPRETED
from kernels.row_codes import Codes, encode, gather_decode
from tests.kernels.gpu.moving import DEVICE, moved

ROWS = 300
KINDS = ("int8", "int4", "fp16", "fp32")
DTYPES = (torch.float32, torch.bfloat16)


def rows_of(kind: str, width: int, rows: int = ROWS) -> Codes | Tensor:
    """Rows of many sizes; some are constant, one is zero, one spans all that float16 can."""
    make = torch.Generator().manual_seed(width)
    values = torch.randn(rows, width, generator=make) * 10 ** torch.linspace(-6, 4, rows)[:, None]
    values = values.clamp(-60_000, 60_000)
    values[1], values[2], values[3] = 0.0, 0.1, 2.0**-24
    values[4, 0], values[4, -1] = -65504.0, 65504.0
    if kind.startswith("int"):
        return encode(values, int(kind.removeprefix("int")))
    return values.half() if kind == "fp16" else values


def on_device(codes: Codes | Tensor) -> Codes | Tensor:
    return Codes(*moved(tuple(codes), DEVICE)) if isinstance(codes, Codes) else codes.to(DEVICE)


def chosen(count: int) -> Tensor:
    """Row 0, the unknown one, again and again; the last one; any others, some of them twice."""
    rows_N = torch.randint(0, ROWS, (count,), generator=torch.Generator().manual_seed(count))
    rows_N[::5], rows_N[1:2] = 0, ROWS - 1
    return rows_N


def patterns(rows_ND: Tensor) -> Tensor:
    kind = torch.int32 if rows_ND.dtype == torch.float32 else torch.int16
    return rows_ND.cpu().view(kind)


def wanted_patterns(codes: Codes | Tensor, rows_N: Tensor, dtype: torch.dtype) -> Tensor:
    if INTERPRETED and dtype == torch.bfloat16:  # it cuts off where a GPU rounds
        return (patterns(gather_decode(codes, rows_N, "reference")) >> 16).to(torch.int16)
    return patterns(gather_decode(codes, rows_N, "reference", dtype))


def assert_same(codes: Codes | Tensor, rows_N: Tensor, dtype: torch.dtype) -> None:
    found = gather_decode(on_device(codes), rows_N.to(DEVICE), "triton", dtype)
    assert found.dtype == dtype
    assert torch.equal(patterns(found), wanted_patterns(codes, rows_N, dtype))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [2, 6, 64, 130])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_are_the_references(kind: str, width: int, dtype: torch.dtype) -> None:
    assert_same(rows_of(kind, width), chosen(201), dtype)


@pytest.mark.parametrize("kind", ["int8", "fp16", "fp32"])
@pytest.mark.parametrize("width", [1, 33])
def test_odd_widths(kind: str, width: int) -> None:
    assert_same(rows_of(kind, width), chosen(201), torch.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 64, 65])
def test_any_number_of_rows(kind: str, count: int) -> None:
    assert_same(rows_of(kind, 64), chosen(count), torch.float32)


def test_every_code_of_every_scale_is_read_right() -> None:
    halves = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    scale_R = halves[halves.isfinite() & (halves >= 0)][::97]
    codes_RB = torch.arange(256).to(torch.uint8).repeat(len(scale_R), 1)
    for bits in (8, 4):
        codes = Codes(codes_RB, scale_R, -scale_R.flip(0), bits)
        assert_same(codes, torch.arange(len(scale_R)), torch.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outside", [-1, ROWS])
def test_a_row_outside_is_refused(kind: str, outside: int) -> None:
    codes, rows_N = on_device(rows_of(kind, 6)), torch.tensor([3, outside]).to(DEVICE)
    with pytest.raises(IndexError, match=rf"row {outside} is outside 0 \.\. {ROWS - 1}"):
        gather_decode(codes, rows_N, "triton")
