"""The value: a matrix on a grid of 16 levels per output channel, but for its outliers.

In numpy: on a machine whose cores are all busy torch's threads wait for each other, which took ten
times the CPU time of all the rest.

Shapes: O output channels, I inputs, L levels, S outliers.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LEVELS = 16

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


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
        level_OL = levels(self.scale_O.numpy(), self.zero_O.numpy())
        weight_OI = np.take_along_axis(level_OL, self.codes_OI.numpy().astype(np.int64), axis=1)
        weight_OI.reshape(-1)[self.places_S.numpy()] = self.values_S.numpy()
        return torch.from_numpy(weight_OI)

    @property
    def nbytes(self) -> int:
        """In a file, where two codes share a byte."""
        packed = len(self.codes_OI) * -(-self.codes_OI.shape[1] // 2)
        kept = (self.scale_O, self.zero_O, self.places_S, self.values_S)
        return packed + sum(tensor.nbytes for tensor in kept)


def levels(scale_O: Floats, zero_O: Floats) -> Floats:
    """What the codes of each channel stand for, [O, L]; infinite beyond float32."""
    with np.errstate(over="ignore"):
        steps_OL: Floats = np.arange(LEVELS, dtype=np.float32) * scale_O[:, None]
        return steps_OL + zero_O[:, None]


def on_grid(weight_OI: Floats, out_OI: Bools) -> GridCodes:
    """Every weight at its nearest level, on levels that span those that are no outliers."""
    scale_O, zero_O = _grid_of(weight_OI, ~out_OI)
    codes_OI = rounded(weight_OI, scale_O, zero_O)
    codes_OI[out_OI] = 0
    places_S = np.flatnonzero(out_OI)
    parts = (codes_OI, scale_O, zero_O, places_S.astype(np.int32), weight_OI.reshape(-1)[places_S])
    return GridCodes(*map(torch.from_numpy, parts))


def _grid_of(weight_OI: Floats, free_OI: Bools) -> tuple[Floats, Floats]:
    """Scale and zero of each channel; 0 where nothing is free."""
    any_O = free_OI.any(axis=1)
    low_O = np.where(any_O, weight_OI.min(axis=1, where=free_OI, initial=np.inf), 0)
    high_O = np.where(any_O, weight_OI.max(axis=1, where=free_OI, initial=-np.inf), 0)
    scale_O = (high_O.astype(np.float64) - low_O) / (LEVELS - 1)
    return scale_O.astype(np.float32), low_O.astype(np.float32)


def rounded(values_OI: Floats, scale_O: Floats, zero_O: Floats) -> Bytes:
    """Nearest codes of any values, [O, I]."""
    step_O1 = np.where(scale_O > 0, scale_O, np.inf)[:, None]
    steps_OI = (values_OI.astype(np.float64) - zero_O[:, None]) / step_O1
    codes_OI: Bytes = np.rint(steps_OI).clip(0, LEVELS - 1).astype(np.uint8)
    return codes_OI


def outliers_of(weight_OI: Floats, share: float) -> Bools:
    """Which weights are left out of the grid, [O, I]: this share of all, the largest."""
    chosen_N, count = np.zeros(weight_OI.size, np.bool_), int(share * weight_OI.size)
    if count:
        chosen_N[np.argsort(-np.abs(weight_OI).reshape(-1), kind="stable")[:count]] = True
    return chosen_N.reshape(weight_OI.shape)
