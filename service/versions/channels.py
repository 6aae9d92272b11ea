"""Dense weights as int8 or int4: symmetric, one scale per output channel.

O output channels (dimension 0, as torch.nn.Linear has it), I inputs, B bytes of packed codes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

LIMITS = {8: 127, 4: 7}
"""Largest code by bits. Symmetric, so that a weight and its negative round alike."""

_MIDDLE = 8
"""Added to 4-bit codes in files, which makes them 1 .. 15; where no input is stands 0."""


@dataclass(frozen=True, eq=False)
class ChannelCodes:
    """A matrix as `codes_OI` int8 and `scale_O` fp32: weight = codes * scale of its channel.

    With 4 bits codes are -7 .. 7, and two share a byte in files.
    """

    codes_OI: Tensor
    scale_O: Tensor
    bits: int = 8

    def __post_init__(self) -> None:
        """Raise ValueError for wrong types, shapes, codes or scales."""
        codes, scale, limit = self.codes_OI, self.scale_O, LIMITS[self.bits]
        if codes.dtype != torch.int8 or codes.ndim != 2:
            raise ValueError(f"codes are {codes.dtype} {list(codes.shape)}, not an int8 matrix")
        if ((codes < -limit) | (codes > limit)).any():
            raise ValueError(f"codes are beyond -{limit} .. {limit}")
        if scale.dtype != torch.float32 or list(scale.shape) != [len(codes)]:
            raise ValueError(
                f"scale is {scale.dtype} {list(scale.shape)}, not fp32 for {len(codes)} channels"
            )
        if not bool(((scale >= 0) & scale.isfinite()).all()):
            raise ValueError("scale has NaN, infinite or negative values")

    @classmethod
    def encode(cls, weight_OI: Tensor, bits: int = 8) -> "ChannelCodes":
        """Round to the nearest code: off by at most half a scale. Raises ValueError for NaN."""
        weight_OI, limit = weight_OI.detach().float(), LIMITS[bits]
        scale_O = weight_OI.abs().amax(dim=1) / limit if weight_OI.shape[1] else weight_OI.sum(1)
        divisor_O = torch.where(scale_O > 0, scale_O, torch.inf)  # a zero row has zero codes
        codes_OI = (weight_OI / divisor_O[:, None]).round().clamp(-limit, limit)
        return cls(codes_OI.to(torch.int8), scale_O, bits)

    def decode(self) -> Tensor:
        """The matrix in fp32, [O, I]."""
        return self.codes_OI * self.scale_O[:, None]

    def to_tensors(self) -> dict[str, Tensor]:
        """As in a snapshot file, below `dense/NAME/` (docs/formats.md)."""
        if self.bits == 8:
            return {"codes": self.codes_OI, "scale": self.scale_O}
        shifted_OI = pad((self.codes_OI + _MIDDLE).to(torch.uint8), (0, self.codes_OI.shape[1] % 2))
        return {"codes4": shifted_OI[:, 0::2] | shifted_OI[:, 1::2] << 4, "scale": self.scale_O}

    @classmethod
    def unpacked(cls, packed_OB: Tensor, scale_O: Tensor) -> "ChannelCodes":
        """The inverse of `to_tensors` with 4 bits. Raises ValueError for what it never writes."""
        if packed_OB.dtype != torch.uint8 or packed_OB.ndim != 2 or not packed_OB.numel():
            found = f"{packed_OB.dtype} {list(packed_OB.shape)}"
            raise ValueError(f"codes4 is {found}, not a uint8 matrix")
        shifted_OI = torch.stack([packed_OB & 15, packed_OB >> 4], dim=2).flatten(1)
        if not shifted_OI[:, -1].any():  # an odd number of inputs
            shifted_OI = shifted_OI[:, :-1]
        return cls(shifted_OI.to(torch.int8) - _MIDDLE, scale_O, bits=4)
