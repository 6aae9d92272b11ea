"""A dense weight in any precision: its values, or a matrix as codes.

A matrix of 4 bits is rounded (`ChannelCodes`), or was fitted to its inputs (`GridCodes`).
"""

import torch
from torch import Tensor

from kernels.quantease import GridCodes
from service.versions import grid
from service.versions.channels import ChannelCodes
from service.versions.precision import check_precision

Dense = Tensor | ChannelCodes | GridCodes


def values_of(weight: Dense) -> Tensor:
    """The weight in fp32; whole numbers as they are."""
    if not isinstance(weight, Tensor):
        return weight.decode()
    return weight.float() if weight.dtype == torch.float16 else weight


def precision_of(weight: Dense) -> str:
    """What it is kept in; whatever is neither codes nor fp16 is exact, hence "fp32"."""
    if isinstance(weight, GridCodes):
        return "int4"
    if isinstance(weight, ChannelCodes):
        return f"int{weight.bits}"
    return "fp16" if weight.dtype == torch.float16 else "fp32"


def quantized(name: str, weight: Dense, precision: str) -> Dense:
    """The weight in another precision; one without elements stays as it is.

    Raises ValueError for codes of what is no matrix, and for values beyond fp16.
    """
    check_precision(f"dense weight {name!r}", precision)
    values = values_of(weight)
    if precision == precision_of(weight) or not values.numel():
        return weight
    if not values.is_floating_point():
        raise ValueError(f"dense weight {name!r} has whole numbers, which stay as they are")
    if not precision.startswith("int"):
        return values.half() if precision == "fp16" else values
    if values.ndim != 2:
        raise ValueError(
            f"dense weight {name!r} is {list(values.shape)}: only a matrix can be {precision}"
        )
    return ChannelCodes.encode(values, int(precision.removeprefix("int")))


def to_tensors(weight: Dense) -> dict[str, Tensor]:
    """As in a snapshot file, below `dense/NAME/` (docs/formats.md)."""
    if isinstance(weight, GridCodes):
        return grid.to_tensors(weight)
    return weight.to_tensors() if isinstance(weight, ChannelCodes) else {"values": weight}


def from_tensors(parts: dict[str, Tensor]) -> Dense:
    """The inverse. Raises ValueError for a weight that is not whole."""
    match parts:
        case {"values": values}:
            return values
        case {"codes": codes_OI, "scale": scale_O}:
            return ChannelCodes(codes_OI, scale_O)
        case {"codes4": packed_OB, "scale": scale_O}:
            return ChannelCodes.unpacked(packed_OB, scale_O)
        case {
            "grid4": _, "scale": _, "zero": _, "outliers/places": _, "outliers/values": _
        }:  # fmt: skip
            return grid.from_tensors(parts)
    raise ValueError(f"values, or codes and scale, are expected, not {sorted(parts)}")
