"""Row codes in numba, over flat arrays with unsigned indices. Same bits as the reference."""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.row_codes.codes import Codes, refuse_outside

_TWO_112 = np.float32(2.0**112)


def limits(rows_RD: Tensor) -> tuple[Tensor, Tensor]:
    low_R, high_R = torch.empty(len(rows_RD)), torch.empty(len(rows_RD))
    bits, low, high = (t.view(-1).view(torch.int32).numpy() for t in (rows_RD, low_R, high_R))
    _limits(bits, np.uint64(rows_RD.shape[1]), low, high)
    return low_R, high_R


def encode(rows_RD: Tensor, scale_R: Tensor, bias_R: Tensor, largest: int) -> Tensor:
    codes_RD = torch.empty(rows_RD.shape, dtype=torch.uint8)
    flat, codes = rows_RD.view(-1).numpy(), codes_RD.view(-1).numpy()
    width, top = np.uint64(rows_RD.shape[1]), np.float32(largest)
    _encode(flat, scale_R.numpy(), bias_R.numpy(), width, top, codes)
    return codes_RD


def gather_decode(codes: Codes | Tensor, rows_N: Tensor, dtype: torch.dtype) -> Tensor:
    """See `kernels.row_codes.gather_decode`."""
    if isinstance(codes, Tensor):
        refuse_outside(rows_N, len(codes))
        return codes.index_select(0, rows_N).float().to(dtype)
    end, width = codes.codes_RB.shape
    out_ND = torch.empty(len(rows_N), codes.width)
    rows, flat = rows_N.contiguous().numpy(), codes.codes_RB.contiguous().view(-1).numpy()
    halves = codes.scale_R.view(torch.uint16).numpy(), codes.bias_R.view(torch.uint16).numpy()
    out, decode = out_ND.view(-1).numpy(), _gather_decode if codes.bits == 8 else _gather_decode_4
    reached = decode(flat, *halves, rows, np.uint64(end), np.uint64(width), out)
    if reached < len(rows):
        raise IndexError(f"row {rows[reached]} is outside 0 .. {end - 1}")
    return out_ND.to(dtype)


@njit(cache=True, nogil=True)
def _limits(bits: Any, width: Any, low: Any, high: Any) -> None:
    """Compares bit patterns as integers, in vector lanes; NaN sorts beyond the infinities."""
    for r in range(len(low)):
        base = np.uint64(r) * width
        lowest = highest = _ordered(bits[base])
        for d in range(width):
            value = _ordered(bits[base + d])
            lowest = value if value < lowest else lowest
            highest = value if value > highest else highest
        low[r], high[r] = _ordered(lowest), _ordered(highest)


@njit(cache=True, nogil=True)
def _ordered(bits: Any) -> Any:
    """A float32's bits as an int32 of the same order, and back: negative patterns are reversed."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@njit(cache=True, nogil=True)
def _encode(rows: Any, scale: Any, bias: Any, width: Any, top: Any, codes: Any) -> None:
    for r in range(len(scale)):
        base = np.uint64(r) * width
        step = scale[r] if scale[r] > 0 else np.float32(1)
        for d in range(width):
            level = np.rint((rows[base + d] - bias[r]) / step)
            codes[base + d] = np.uint8(min(max(level, np.float32(0)), top))


@njit(cache=True, nogil=True)
def _gather_decode(
    codes: Any, scale: Any, bias: Any, rows: Any, end: Any, width: Any, out: Any
) -> int:
    for i in range(len(rows)):
        row = np.uint64(rows[i])
        if row >= end:
            return i
        step, low = half(scale[row]), half(bias[row])
        source, target = row * width, np.uint64(i) * width
        for d in range(width):
            out[target + d] = low + np.float32(codes[source + d]) * step
    return len(rows)


@njit(cache=True, nogil=True)
def _gather_decode_4(
    codes: Any, scale: Any, bias: Any, rows: Any, end: Any, width: Any, out: Any
) -> int:
    """`width` is in bytes, each of two components."""
    for i in range(len(rows)):
        row = np.uint64(rows[i])
        if row >= end:
            return i
        step, low = half(scale[row]), half(bias[row])
        source, target = row * width, np.uint64(i) * width * np.uint64(2)
        for b in range(width):
            pair = codes[source + b]
            out[target + np.uint64(2) * b] = low + np.float32(pair & np.uint8(15)) * step
            out[target + np.uint64(2) * b + np.uint64(1)] = (
                low + np.float32(pair >> np.uint8(4)) * step
            )
    return len(rows)


@njit(cache=True, nogil=True)
def half(bits: Any) -> Any:
    """A finite float16's bits as float32: exponents are rebased by a product, which also carries
    subnormal numbers."""
    magnitude = np.uint32((np.uint32(bits) & np.uint32(0x7FFF)) << np.uint32(13))
    value = magnitude.view(np.float32) * _TWO_112
    return -value if bits & np.uint16(0x8000) else value
