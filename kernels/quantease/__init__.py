"""Weights of a dense layer on a grid of 4 bits, fitted to what the layer's inputs are like.

Source: QuantEase (arXiv 2309.01885): cyclic coordinate descent on the layer's output error
`||(W - What) X||^2 = trace((W - What) S (W - What)^T)` with `S = X X^T`. Per update of column j
`u_j = ((W S)_j - sum of What_k S_kj over k other than j) / S_jj`, then the nearest level: the exact
minimum over that column, so the error never rises. Columns go by falling S_jj; inputs that are
always 0 (S_jj = 0) are just rounded. Outliers are exact, and the grid spans the others. The paper's
relaxed passes and its moving outliers are left out.

Descent ends in one of many minima, so every channel starts from several places and keeps the best.

Shapes: O output channels, I inputs, A inputs that are not always 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.backends import pick
from kernels.quantease import cpu, reference
from kernels.quantease.grid import Bools, GridCodes, levels, on_grid, outliers_of, rounded

__all__ = ["OUTLIERS", "GridCodes", "fitted", "nearest", "output_error"]

OUTLIERS = 0.01
"""Share of the weights that are kept exactly."""

Doubles = npt.NDArray[np.float64]

_BACKENDS: dict[str, ModuleType] = {"reference": reference, "numba": cpu}
_LARGEST = 1e38


def fitted(
    weight_OI: Tensor, moments_II: Tensor, warm: GridCodes | None = None, *,
    passes: int = 20, outliers: float = OUTLIERS, backend: str = "numba",
) -> GridCodes:  # fmt: skip
    """Codes of a float32 matrix whose inputs have the second moments S, up to a factor.

    Each channel takes the best of what so many passes make of its nearest codes, with outliers and
    without, and of `warm`: the codes of a matrix that was much like this one. So none is worse than
    rounded to nearest. The same arguments give the same bits.

    Raises ValueError for weights and moments that do not fit each other or are not finite.
    """
    layer = _Layer.of(weight_OI, moments_II, backend)
    weight_OI = weight_OI.detach()
    starts = [nearest(weight_OI, outliers), nearest(weight_OI)]
    if warm is not None:
        if warm.codes_OI.shape != weight_OI.shape:
            raise ValueError(
                f"warm codes are {list(warm.codes_OI.shape)}, the weight is "
                f"{list(weight_OI.shape)}; start without them"
            )
        starts.append(layer.moved(starts[0], warm))
    ends = [layer.descended(start, passes) for start in starts]
    best_O = np.argmin([layer.error(codes.decode()) for codes in ends], axis=0)
    return _mixed(ends, best_O)


def nearest(weight_OI: Tensor, outliers: float = 0.0) -> GridCodes:
    """Every weight at its nearest level; the largest, this share of all, exact."""
    weight = weight_OI.detach().numpy()
    return on_grid(weight, outliers_of(weight, outliers))


def output_error(
    weight_OI: Tensor, moments_II: Tensor, decoded_OI: Tensor, backend: str = "numba"
) -> Tensor:
    """What replacing a matrix by another does to its outputs: e S e by channel, float64 [O]."""
    return torch.from_numpy(_Layer.of(weight_OI, moments_II, backend).error(decoded_OI))


@dataclass(frozen=True, eq=False)
class _Layer:
    """What is to be fitted, in float64."""

    weight_OI: Doubles
    moments_II: Doubles
    order_A: npt.NDArray[np.int64]
    backend: ModuleType

    @classmethod
    def of(cls, weight_OI: Tensor, moments_II: Tensor, backend: str) -> "_Layer":
        """Raises ValueError for what does not fit. Both halves of the moments become alike."""
        weight, moments = weight_OI.detach().numpy(), moments_II.numpy().astype(np.float64)
        _check(weight_OI, moments)
        square_I = moments.diagonal()
        order_I = np.argsort(-square_I, kind="stable")
        return cls(
            weight.astype(np.float64, order="C"), (moments + moments.T) / 2,
            order_I[square_I[order_I] > 0], pick(backend, _BACKENDS),
        )  # fmt: skip

    def error(self, decoded_OI: Tensor) -> Doubles:
        """e S e of every channel, [O]."""
        error_O: Doubles = self.backend.squares(
            self.weight_OI - decoded_OI.numpy(), self.moments_II
        )
        return error_O

    def descended(self, start: GridCodes, passes: int) -> GridCodes:
        """After so many passes."""
        level_OL = levels(start.scale_O.numpy(), start.zero_O.numpy()).astype(np.float64)
        codes_OI = start.codes_OI.numpy().copy()
        self.backend.descend(
            self.weight_OI, self.moments_II, self.order_A, ~_is_outlier(start), level_OL,
            codes_OI, passes,
        )  # fmt: skip
        return replace(start, codes_OI=torch.from_numpy(codes_OI))

    def moved(self, start: GridCodes, warm: GridCodes) -> GridCodes:
        """What `warm` stands for on the grid of `start`, but for inputs that are always 0."""
        there_OI = rounded(warm.decode().numpy(), start.scale_O.numpy(), start.zero_O.numpy())
        there_OI[_is_outlier(start)] = 0
        codes_OI = start.codes_OI.numpy().copy()
        codes_OI[:, self.order_A] = there_OI[:, self.order_A]
        return replace(start, codes_OI=torch.from_numpy(codes_OI))


def _check(weight_OI: Tensor, moments_II: Doubles) -> None:
    inputs = weight_OI.shape[-1]
    if weight_OI.dim() != 2 or weight_OI.dtype != torch.float32 or not inputs:
        raise ValueError(
            f"weight is {weight_OI.dtype} {list(weight_OI.shape)}; pass a float32 matrix with "
            "inputs"
        )
    if moments_II.shape != (inputs, inputs):
        raise ValueError(
            f"moments are {list(moments_II.shape)}; a weight with {inputs} inputs needs "
            f"[{inputs}, {inputs}]"
        )
    for name, array in (("weight", weight_OI.detach().numpy()), ("moments", moments_II)):
        if not (np.abs(array) <= _LARGEST).all():
            raise ValueError(f"{name} has NaN or values beyond {_LARGEST:.0e}")
    if (moments_II.diagonal() < 0).any():
        raise ValueError("moments have a negative diagonal; pass sums of squares")


def _is_outlier(codes: GridCodes) -> Bools:
    is_outlier_OI = np.zeros(codes.codes_OI.shape, np.bool_)
    is_outlier_OI.reshape(-1)[codes.places_S.numpy()] = True
    return is_outlier_OI


def _mixed(ends: Sequence[GridCodes], best_O: npt.NDArray[np.int64]) -> GridCodes:
    """Of each channel the codes, the grid and the outliers of the best."""
    channels = np.arange(len(best_O))
    codes_EOI, scale_EO, zero_EO = (
        np.stack([getattr(codes, name).numpy() for codes in ends])
        for name in ("codes_OI", "scale_O", "zero_O")
    )
    is_outlier_EOI = np.stack([_is_outlier(codes) for codes in ends])
    value_EOI = np.stack([codes.decode().numpy() for codes in ends])
    places_S = np.flatnonzero(is_outlier_EOI[best_O, channels])
    values_S = value_EOI[best_O, channels].reshape(-1)[places_S]
    parts = (
        codes_EOI[best_O, channels], scale_EO[best_O, channels], zero_EO[best_O, channels],
        places_S.astype(np.int32), values_S,
    )  # fmt: skip
    return GridCodes(*map(torch.from_numpy, parts))
