"""The value: a matrix on a grid of 16 levels per output channel, but for its outliers.

Shapes: O output channels, I inputs, L levels, S outliers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 16


@dataclass(frozen=True, eq=False)
class GridCodes:
    """Weight [o, i] stands for `zero_O[o] + codes_OI[o, i] * scale_O[o]`, in float32 with a
    rounding after the product and one after the sum; at an outlier for its value.

    codes_OI uint8, 0 .. 15; scale_O and zero_O float32. places_S int32, ascending: an outlier's
    place o * I + i; values_S float32. codes at outliers mean nothing and are 0.
    """

    codes_OI: Tensor
    scale_O: Tensor
    zero_O: Tensor
    places_S: Tensor
    values_S: Tensor

    def decode(self) -> Tensor:
        """The matrix in float32, [O, I]."""
        weight_OI = levels(self.scale_O, self.zero_O).gather(1, self.codes_OI.long())
        weight_OI.view(-1)[self.places_S.long()] = self.values_S
        return weight_OI

    @property
    def nbytes(self) -> int:
        """In a file, where two codes share a byte."""
        packed = len(self.codes_OI) * -(-self.codes_OI.shape[1] // 2)
        kept = (self.scale_O, self.zero_O, self.places_S, self.values_S)
        return packed + sum(tensor.nbytes for tensor in kept)


def levels(scale_O: Tensor, zero_O: Tensor) -> Tensor:
    """What the codes of each channel stand for, float32 [O, L]."""
    steps_OL = torch.arange(LEVELS) * scale_O[:, None]
    return steps_OL + zero_O[:, None]


def grid_of(weight_OI: Tensor, free_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero of each channel: the levels span what is free; 0 where nothing is."""
    nothing_O1 = ~free_OI.any(1, keepdim=True)
    low_O = weight_OI.masked_fill(~free_OI, torch.inf).amin(1, keepdim=True)
    high_O = weight_OI.masked_fill(~free_OI, -torch.inf).amax(1, keepdim=True)
    low_O, high_O = (ends.masked_fill(nothing_O1, 0.0)[:, 0] for ends in (low_O, high_O))
    return ((high_O.double() - low_O) / (LEVELS - 1)).float(), low_O


def rounded(values_OI: Tensor, scale_O: Tensor, zero_O: Tensor) -> Tensor:
    """Nearest codes of any values, uint8 [O, I]."""
    step_O1 = torch.where(scale_O > 0, scale_O, torch.inf)[:, None]
    steps_OI = (values_OI.double() - zero_O[:, None]) / step_O1
    return steps_OI.round().clamp(0, LEVELS - 1).to(torch.uint8)


def outliers_of(weight_OI: Tensor, share: float) -> Tensor:
    """Which weights are left out of the grid, bool [O, I]: this share of all, the largest."""
    count = int(share * weight_OI.numel())
    order_N = weight_OI.abs().flatten().argsort(descending=True, stable=True)
    chosen_N = torch.zeros(weight_OI.numel(), dtype=torch.bool)
    chosen_N[order_N[:count]] = True
    return chosen_N.view(weight_OI.shape)
