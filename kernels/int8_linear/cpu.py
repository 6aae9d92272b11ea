"""On a CPU: rows are quantized, and sums become numbers, each in one pass of numba; between them
torch multiplies, with the processor's own instructions for products of bytes where it has some
(VNNI). The same bits as the reference."""

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.int8_linear.reference import LARGEST_CODE, SMALLEST_ROW

_LARGEST, _SMALLEST = np.float32(LARGEST_CODE), np.float32(SMALLEST_ROW)
_SIZE = np.int32(0x7FFFFFFF)
_EXACT_INPUTS = 2**24 // LARGEST_CODE**2
"""Of so many float32 holds every sum."""


def int8_linear(x_RI: Tensor, weight_OI: Tensor, scale_O: Tensor, bias_O: Tensor) -> Tensor:
    """See `kernels.int8_linear.int8_linear`."""
    x_RI = x_RI.contiguous()
    codes_RI, scale_R = torch.empty(x_RI.shape, dtype=torch.int8), torch.empty(len(x_RI))
    x, codes, scale = x_RI.view(-1).numpy(), codes_RI.view(-1).numpy(), scale_R.numpy()
    _quantize(x.view(np.int32), x, np.uint64(x_RI.shape[1]), codes, scale)
    sums_RO = sums(codes_RI, weight_OI)
    per_channel = scale_O.contiguous().numpy(), bias_O.contiguous().numpy()
    _to_numbers(sums_RO.view(-1).numpy(), scale, *per_channel)
    return sums_RO.view(torch.float32)


def sums(codes_RI: Tensor, weight_OI: Tensor) -> Tensor:
    """Sums of products of codes, exactly, int32 [R, O]; by floats that hold them where torch's own
    product of bytes is not to be had."""
    inputs = codes_RI.shape[1]
    # Of rows of one number torch 2.13 leaves most products out.
    if inputs > 1 and multiplies_bytes():
        product_RO: Tensor = torch._int_mm(codes_RI, weight_OI.T)
        return product_RO
    wide = torch.float32 if inputs <= _EXACT_INPUTS else torch.float64
    return (codes_RI.to(wide) @ weight_OI.to(wide).T).int()


@cache
def multiplies_bytes() -> bool:
    """Whether torch multiplies int8 matrices here, and exactly: it promises neither, and without
    VNNI sums of two products are cut off at 16 bits (pytorch issue 136746)."""
    codes = torch.full((33, 96), LARGEST_CODE, dtype=torch.int8)
    weight = codes * torch.tensor([[1], [-1], [1]], dtype=torch.int8).repeat(11, 1)
    wanted = weight[:, 0].int() * LARGEST_CODE * 96
    try:
        found = [torch._int_mm(some, weight.T) for some in (codes, codes[:1])]
    except (AttributeError, RuntimeError):
        return False
    return all(torch.equal(one, wanted.expand_as(one)) for one in found)


@njit(cache=True, nogil=True)
def _quantize(bits: Any, x: Any, width: Any, codes: Any, scale: Any) -> None:
    for r in range(len(scale)):
        base, inverse = np.uint64(r) * width, np.float32(0)
        largest = np.int32(_largest_size(bits, base, width)).view(np.float32)
        scale[r] = np.float32(0)
        if not np.isfinite(largest):
            scale[r] = np.nan
        elif largest >= _SMALLEST:
            scale[r], inverse = largest / _LARGEST, _LARGEST / largest
        if inverse == 0:
            codes[base : base + width] = 0
            continue
        for i in range(width):
            codes[base + i] = np.int8(np.rint(x[base + i] * inverse))


@njit(cache=True, nogil=True)
def _largest_size(bits: Any, base: Any, width: Any) -> Any:
    """As bits of a float32, which are compared in vector lanes; NaN is beyond the infinities."""
    largest = np.int32(0)
    for i in range(width):
        size = np.int32(bits[base + i] & _SIZE)
        largest = size if size > largest else largest
    return largest


@njit(cache=True, nogil=True)
def _to_numbers(sums: Any, scale: Any, of_channel: Any, bias: Any) -> None:
    """In place: sums become float32 where they stand."""
    width, y = np.uint64(len(of_channel)), sums.view(np.float32)
    for r in range(len(scale)):
        base, of_row = np.uint64(r) * width, scale[r]
        for o in range(width):
            y[base + o] = np.float32(sums[base + o]) * of_row * of_channel[o] + bias[o]
