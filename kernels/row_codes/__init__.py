"""Rows as codes of 8 or 4 bits with a float16 scale and bias per row: a snapshot's form of the
table.

Scale and bias are rounded to float16 first, outwards (bias down, scale up), so that the 256 or 16
levels span the row and every component lies within half a scale of its code's value:
`|x - decoded| <= scale / 2`, plus float32 rounding of the sum. A row that is constant at a float16
number is exact (scale 0); at any other number it is within 2^-19 of its size, or 2^-25, with 8
bits, and within 2^-14, or 2^-24, with 4.

`code * scale` has at most 19 significant bits, so it is exact in float32 and decoding rounds once:
every backend, with or without fused multiply-add, decodes to the same bits.
"""

from types import ModuleType

import torch
from torch import Tensor

from kernels.backends import pick
from kernels.row_codes import cpu, reference
from kernels.row_codes.codes import Codes

__all__ = ["Codes", "decode", "encode", "gather_decode", "widened"]

_BACKENDS: dict[str, ModuleType] = {"reference": reference, "numba": cpu}
_LARGEST = 65504.0
_LARGEST_CODE = {8: 255, 4: 15}
"""By bits."""


def encode(rows_RD: Tensor, bits: int = 8, backend: str = "numba") -> Codes:
    """Codes of float32 rows, with 8 or 4 bits.

    Raises ValueError for a component that is not finite or beyond float16 (65,504), for other
    bits, and for rows of odd width with 4 bits.
    """
    if rows_RD.dim() != 2 or rows_RD.dtype != torch.float32:
        raise TypeError(f"rows are {rows_RD.dtype} {list(rows_RD.shape)}; pass float32 [R, D]")
    if bits not in _LARGEST_CODE:
        raise ValueError(f"bits = {bits}: rows are coded with 8 bits or 4")
    if bits == 4 and rows_RD.shape[1] % 2:
        raise ValueError(
            f"rows are {rows_RD.shape[1]} wide: two codes of 4 bits share a byte, so the width "
            "must be even; use 8 bits"
        )
    rows_RD = rows_RD.detach().contiguous()
    if not rows_RD.numel():
        empty_R = torch.zeros(len(rows_RD), dtype=torch.float16)
        return Codes(_packed(rows_RD.to(torch.uint8), bits), empty_R, empty_R.clone(), bits)
    chosen, largest = pick(backend, _BACKENDS), _LARGEST_CODE[bits]
    low_R, high_R = chosen.limits(rows_RD)
    _refuse_wide(low_R, high_R)
    bias_R = _floor_half(low_R + 0.0)  # + 0.0 makes a lowest component of -0.0 a plain zero
    scale_R = _ceil_half((high_R - bias_R.float()) / largest)
    codes_RD = chosen.encode(rows_RD, scale_R.float(), bias_R.float(), largest)
    return Codes(_packed(codes_RD, bits), scale_R, bias_R, bits)


def _packed(codes_RD: Tensor, bits: int) -> Tensor:
    return codes_RD if bits == 8 else codes_RD[:, 0::2] | codes_RD[:, 1::2] << 4


def widened(codes: Codes) -> Codes:
    """The same rows with 8 bits; they decode to the same bits."""
    if codes.bits == 8:
        return codes
    pairs_RB2 = torch.stack([codes.codes_RB & 15, codes.codes_RB >> 4], dim=2)
    return Codes(pairs_RB2.flatten(1), codes.scale_R, codes.bias_R)


def decode(codes: Codes, backend: str = "numba") -> Tensor:
    """All rows, float32 [R, D]."""
    return gather_decode(codes, torch.arange(len(codes.codes_RB)), backend)


def gather_decode(
    codes: Codes | Tensor, rows_N: Tensor, backend: str = "numba",
    dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """The chosen rows of codes, or of float16 or float32 numbers [R, D]: [N, D], on their device:
    the CPU, but for backend `triton`.

    dtype: float32, or bfloat16, to which the float32 number is rounded. Raises IndexError for a row
    outside 0 .. R-1.
    """
    gathers = {"reference": reference.gather_decode, "numba": cpu.gather_decode, "triton": _triton}
    return pick(backend, gathers)(codes, rows_N, dtype)


def _triton(codes: Codes | Tensor, rows_N: Tensor, dtype: torch.dtype) -> Tensor:
    # Imported on demand: a server on a CPU has no triton.
    from kernels.row_codes import gpu

    return gpu.gather_decode(codes, rows_N, dtype)


def _refuse_wide(low_R: Tensor, high_R: Tensor) -> None:
    # NaN fails both comparisons.
    wrong_R = ~((low_R >= -_LARGEST) & (high_R <= _LARGEST))
    if wrong_R.any():
        row = int(wrong_R.nonzero()[0])
        raise ValueError(
            f"row {row} spans {low_R[row].item()} .. {high_R[row].item()}; codes need finite "
            f"components within {_LARGEST:.0f} of 0"
        )


def _floor_half(values_R: Tensor) -> Tensor:
    """The largest float16 that is not above each value: one bit pattern down from the nearest."""
    near_R = values_R.half()
    down_R = torch.where(near_R > 0, -1, 1)  # negative patterns grow downwards, -0.0 included
    near_R.view(torch.int16).add_((near_R.float() > values_R) * down_R)
    return near_R


def _ceil_half(values_R: Tensor) -> Tensor:
    """The smallest float16 that is not below each value; none of them is negative."""
    near_R = values_R.half()
    near_R.view(torch.int16).add_(near_R.float() < values_R)
    return near_R
