"""Dense weights on a fitted grid (`kernels.quantease`), as they stand in a snapshot file.

O output channels, I inputs, B bytes of packed codes, S outliers.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from kernels.quantease import GridCodes
from service.versions.checks import expect, expect_finite


def to_tensors(weight: GridCodes) -> dict[str, Tensor]:
    """Below `dense/NAME/` (docs/formats.md). Raises ValueError for an odd number of inputs."""
    if weight.codes_OI.shape[1] % 2:
        raise ValueError(
            f"a matrix on a grid has {weight.codes_OI.shape[1]} inputs: two codes share a byte, "
            "so their number must be even"
        )
    return {
        "grid4": weight.codes_OI[:, 0::2] | weight.codes_OI[:, 1::2] << 4,
        "scale": weight.scale_O,
        "zero": weight.zero_O,
        "outliers/places": weight.places_S,
        "outliers/values": weight.values_S,
    }


def from_tensors(parts: Mapping[str, Tensor]) -> GridCodes:
    """The inverse. Raises ValueError for what it never writes."""
    packed_OB, places_S = parts["grid4"], parts["outliers/places"]
    if packed_OB.dtype != torch.uint8 or packed_OB.ndim != 2:
        found = f"{packed_OB.dtype} {list(packed_OB.shape)}"
        raise ValueError(f"grid4 is {found}, not a uint8 matrix")
    for name in ("scale", "zero"):
        expect(name, parts[name], torch.float32, [len(packed_OB)])
    if bool((parts["scale"] < 0).any()):
        raise ValueError("scale has negative values")
    expect("outliers/places", places_S, torch.int32, [places_S.numel()])
    expect("outliers/values", parts["outliers/values"], torch.float32, [len(places_S)])
    codes_OI = torch.stack([packed_OB & 15, packed_OB >> 4], dim=2).flatten(1)
    last = torch.tensor([codes_OI.numel()])
    if not bool((torch.cat([places_S, last]).diff() > 0).all()) or bool((places_S < 0).any()):
        raise ValueError(f"outliers/places are not ascending within 0 .. {codes_OI.numel() - 1}")
    weight = GridCodes(codes_OI, parts["scale"], parts["zero"], places_S, parts["outliers/values"])
    expect_finite("what the codes stand for", weight.decode())
    return weight
