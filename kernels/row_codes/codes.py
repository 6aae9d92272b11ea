"""The value: rows as 8-bit codes."""

from typing import NamedTuple

from torch import Tensor


class Codes(NamedTuple):
    """R rows of width D: row r, component d stands for `bias_R[r] + codes_RD[r, d] * scale_R[r]`.

    codes_RD uint8, scale_R and bias_R float16, all contiguous: D + 4 bytes a row, 26.6 % of
    float32 at D = 64.
    """

    codes_RD: Tensor
    scale_R: Tensor
    bias_R: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and biases."""
        return sum(tensor.nbytes for tensor in self)
