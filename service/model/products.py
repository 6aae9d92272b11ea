"""The matrix products of a layer, in the precision that a server computes them in.

In float32 and bfloat16 weights are rounded to that type and products are torch's. In 8-bit integers
(`kernels.int8_linear`) weights are codes with a scale per output channel: those of the snapshot,
if it has the matrix as such codes, and else the nearest. Rows are quantized as they come.

Shapes: R rows, I inputs, O outputs.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from kernels.int8_linear import int8_linear
from service.versions import ChannelCodes

Product = Callable[[Tensor], Tensor]
"""Rows [R, I] to rows [R, O], in the type of `passed`."""

Codes = Mapping[str, ChannelCodes]
"""Weights by name, those that a snapshot has as codes."""


def passed(precision: torch.dtype) -> torch.dtype:
    """The type of what passes between products of this precision, and of what is kept."""
    return torch.float32 if precision == torch.int8 else precision


def product(made: nn.Linear, precision: torch.dtype, codes: ChannelCodes | None = None) -> Product:
    """A layer's matrix and bias, laid out for asking. precision: float32, bfloat16 or int8.

    codes: what the weight was decoded from, if it was.
    """
    weight_OI, bias_O = made.weight.detach(), made.bias.detach()
    if precision != torch.int8:
        return partial(linear, weight=weight_OI.to(precision), bias=bias_O.to(precision))
    codes = ChannelCodes.encode(weight_OI) if codes is None else codes
    return partial(int8_linear, weight_OI=codes.codes_OI, scale_O=codes.scale_O, bias_O=bias_O)
