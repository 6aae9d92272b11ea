"""Weights of a dense layer on a grid of 4 bits, fitted to what the layer's inputs are like.

Source: QuantEase (arXiv 2309.01885): cyclic coordinate descent on the layer's output error
`||(W - What) X||^2 = trace((W - What) S (W - What)^T)` with `S = X X^T`. Per update of column j
`u_j = ((W S)_j - sum of What_k S_kj over k other than j) / S_jj`, then the nearest level: the exact
minimum over that column, so the error never rises. Columns go by falling S_jj; inputs that are
always 0 (S_jj = 0) are just rounded. Outliers are exact, and the grid spans the others. The paper's
relaxed passes and its moving outliers are left out.

Shapes: O output channels, I inputs, A inputs that are not always 0.
"""

from dataclasses import replace
from types import ModuleType

import torch
from torch import Tensor

from kernels.backends import pick
from kernels.quantease import cpu, reference
from kernels.quantease.grid import GridCodes, grid_of, outliers_of, rounded

__all__ = ["OUTLIERS", "GridCodes", "fitted", "nearest", "output_error"]

OUTLIERS = 0.01
"""Share of the weights that are kept exactly."""

_BACKENDS: dict[str, ModuleType] = {"reference": reference, "numba": cpu}
_LARGEST = 1e38


def fitted(
    weight_OI: Tensor, moments_II: Tensor, warm: GridCodes | None = None, *,
    passes: int = 20, outliers: float = OUTLIERS, backend: str = "numba",
) -> GridCodes:  # fmt: skip
    """Codes of a float32 matrix whose inputs have the second moments S, up to a factor.

    `warm`: codes of a matrix that was much like this one; each channel starts with what is better,
    these or the nearest. No channel's output error is above that of its nearest codes, with the
    same outliers or without any. The same arguments give the same bits.

    Raises ValueError for weights and moments that do not fit each other or are not finite.
    """
    moments_II = _checked(weight_OI, moments_II)
    if warm is not None and warm.codes_OI.shape != weight_OI.shape:
        raise ValueError(
            f"warm codes are {list(warm.codes_OI.shape)}, the weight is {list(weight_OI.shape)}; "
            "start without them"
        )
    weight_OI, chosen = weight_OI.detach().contiguous(), pick(backend, _BACKENDS)
    start = nearest(weight_OI, outliers)
    error_O = _error(weight_OI, moments_II, start, chosen)
    if warm is not None:
        before = _on_grid(start, warm, moments_II.diagonal() > 0)
        better_O = _error(weight_OI, moments_II, before, chosen) < error_O
        start = replace(
            start, codes_OI=torch.where(better_O[:, None], before.codes_OI, start.codes_OI)
        )
    found = _descended(weight_OI, moments_II, start, passes, chosen)
    plain = nearest(weight_OI)
    worse_O = _error(weight_OI, moments_II, found, chosen) > _error(
        weight_OI, moments_II, plain, chosen
    )
    if not worse_O.any():
        return found
    return _mixed(worse_O, _descended(weight_OI, moments_II, plain, passes, chosen), found)


def nearest(weight_OI: Tensor, outliers: float = 0.0) -> GridCodes:
    """Every weight at its nearest level; the largest, this share of all, exact."""
    out_OI = outliers_of(weight_OI, outliers)
    scale_O, zero_O = grid_of(weight_OI, ~out_OI)
    codes_OI = rounded(weight_OI, scale_O, zero_O).masked_fill(out_OI, 0)
    places_S = out_OI.flatten().nonzero()[:, 0]
    return GridCodes(codes_OI, scale_O, zero_O, places_S.int(), weight_OI.flatten()[places_S])


def output_error(
    weight_OI: Tensor, moments_II: Tensor, decoded_OI: Tensor, backend: str = "numba"
) -> Tensor:
    """What replacing a matrix by another does to its outputs: e S e by channel, float64 [O]."""
    error_OI = weight_OI.detach().double() - decoded_OI.double()
    out_O: Tensor = pick(backend, _BACKENDS).squares(error_OI, _checked(weight_OI, moments_II))
    return out_O


def _checked(weight_OI: Tensor, moments_II: Tensor) -> Tensor:
    """The moments in float64, both halves alike."""
    inputs = weight_OI.shape[-1]
    if weight_OI.dim() != 2 or weight_OI.dtype != torch.float32 or not inputs:
        raise ValueError(
            f"weight is {weight_OI.dtype} {list(weight_OI.shape)}; pass a float32 matrix with "
            "inputs"
        )
    if list(moments_II.shape) != [inputs, inputs]:
        raise ValueError(
            f"moments are {list(moments_II.shape)}; a weight with {inputs} inputs needs "
            f"[{inputs}, {inputs}]"
        )
    for name, tensor in (("weight", weight_OI), ("moments", moments_II)):
        if not bool((tensor.abs() <= _LARGEST).all()):
            raise ValueError(f"{name} has NaN or values beyond {_LARGEST:.0e}")
    if bool((moments_II.diagonal() < 0).any()):
        raise ValueError("moments have a negative diagonal; pass sums of squares")
    moments_II = moments_II.double()
    return ((moments_II + moments_II.T) / 2).contiguous()


def _descended(
    weight_OI: Tensor, moments_II: Tensor, start: GridCodes, passes: int, chosen: ModuleType
) -> GridCodes:
    order_I = moments_II.diagonal().argsort(descending=True, stable=True)
    order_A = order_I[moments_II.diagonal()[order_I] > 0]
    codes_OI = chosen.descend(
        weight_OI, moments_II, order_A, ~_is_outlier(start), start.scale_O, start.zero_O,
        start.codes_OI, passes,
    )  # fmt: skip
    return replace(start, codes_OI=codes_OI)


def _on_grid(start: GridCodes, warm: GridCodes, live_I: Tensor) -> GridCodes:
    """What was there before on the grid of now, but for inputs that are always 0."""
    codes_OI = rounded(warm.decode(), start.scale_O, start.zero_O)
    codes_OI = codes_OI.masked_fill(_is_outlier(start), 0)
    return replace(start, codes_OI=torch.where(live_I, codes_OI, start.codes_OI))


def _error(weight_OI: Tensor, moments_II: Tensor, codes: GridCodes, chosen: ModuleType) -> Tensor:
    error_O: Tensor = chosen.squares(weight_OI.double() - codes.decode(), moments_II)
    return error_O


def _is_outlier(codes: GridCodes) -> Tensor:
    is_outlier_OI = torch.zeros(codes.codes_OI.shape, dtype=torch.bool)
    is_outlier_OI.view(-1)[codes.places_S.long()] = True
    return is_outlier_OI


def _mixed(first_O: Tensor, first: GridCodes, second: GridCodes) -> GridCodes:
    """The channels of `first` where it says so, those of `second` elsewhere."""
    inputs = first.codes_OI.shape[1]
    places, values = [], []
    for codes, taken_O in ((first, first_O), (second, ~first_O)):
        taken_S = taken_O[codes.places_S.long() // inputs]
        places.append(codes.places_S[taken_S])
        values.append(codes.values_S[taken_S])
    places_S, order_S = torch.cat(places).sort()
    return GridCodes(
        torch.where(first_O[:, None], first.codes_OI, second.codes_OI),
        torch.where(first_O, first.scale_O, second.scale_O),
        torch.where(first_O, first.zero_O, second.zero_O),
        places_S, torch.cat(values)[order_S],
    )  # fmt: skip
