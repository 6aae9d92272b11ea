"""Dense weights as int8: symmetric, one scale per output channel.

R rows of output channels (dimension 0, as torch.nn.Linear has it), I inputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LIMIT = 127
"""Codes are -127 .. 127: symmetric, so that a weight and its negative round alike."""


@dataclass(frozen=True, eq=False)
class ChannelCodes:
    """A matrix as `codes_RI` int8 and `scale_R` fp32: weight = codes * scale of its row."""

    codes_RI: Tensor
    scale_R: Tensor

    def __post_init__(self) -> None:
        """Raise ValueError for wrong types, shapes or scales."""
        codes, scale = self.codes_RI, self.scale_R
        if codes.dtype != torch.int8 or codes.ndim != 2:
            raise ValueError(f"codes are {codes.dtype} {list(codes.shape)}, not an int8 matrix")
        if scale.dtype != torch.float32 or list(scale.shape) != [len(codes)]:
            raise ValueError(
                f"scale is {scale.dtype} {list(scale.shape)}, not fp32 for {len(codes)} channels"
            )
        if not bool(((scale >= 0) & scale.isfinite()).all()):
            raise ValueError("scale has NaN, infinite or negative values")

    @classmethod
    def encode(cls, weight_RI: Tensor) -> "ChannelCodes":
        """Round to the nearest code: off by at most half a scale. Raises ValueError for NaN."""
        weight_RI = weight_RI.detach().float()
        scale_R = weight_RI.abs().amax(dim=1) / LIMIT if weight_RI.shape[1] else weight_RI.sum(1)
        divisor_R = torch.where(scale_R > 0, scale_R, torch.inf)  # a zero row has zero codes
        codes_RI = (weight_RI / divisor_R[:, None]).round().clamp(-LIMIT, LIMIT)
        return cls(codes_RI.to(torch.int8), scale_R)

    def decode(self) -> Tensor:
        """The matrix in fp32, [R, I]."""
        return self.codes_RI * self.scale_R[:, None]
