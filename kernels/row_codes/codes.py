"""The value: rows as codes of 8 or 4 bits."""

from typing import NamedTuple

import torch
from torch import Tensor


class Codes(NamedTuple):
    """R rows of width D: row r, component d stands for `bias_R[r] + code[r, d] * scale_R[r]`.

    codes_RB uint8, scale_R and bias_R float16, all contiguous. With 8 bits B is D: D + 4 bytes a
    row, 26.6 % of float32 at D = 64. With 4 bits B is D / 2: component 2b is the low half of byte
    b, 2b + 1 the high half; 14.1 % at D = 64.
    """

    codes_RB: Tensor
    scale_R: Tensor
    bias_R: Tensor
    bits: int = 8

    @property
    def width(self) -> int:
        """D, the width of a row."""
        return self.codes_RB.shape[-1] * 8 // self.bits

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and biases."""
        return self.codes_RB.nbytes + self.scale_R.nbytes + self.bias_R.nbytes


def refuse_outside(rows_N: Tensor, end: int) -> None:
    """Raise IndexError for a row outside 0 .. end-1."""
    if not len(rows_N):
        return
    least, most = torch.stack(torch.aminmax(rows_N)).tolist()
    if least < 0 or most >= end:
        outside_N = (rows_N < 0) | (rows_N >= end)
        raise IndexError(f"row {int(rows_N[outside_N][0])} is outside 0 .. {end - 1}")
