"""A linear layer in 8-bit integers: a scale per output channel, and one per row of the input.

Weights are codes [O, I] in -127 .. 127 with a scale per output channel; rows are quantized as they
come, symmetrically, to the largest of their size. Products are summed as integers, exactly, and
become numbers once:

    y[r, o] = (float32(sum_i code[r, i] * weight[o, i]) * scale[r]) * scale[o] + bias[o]

Sums of integers do not depend on their order, so a row's result depends on that row alone and is
the same by every backend, bit for bit. A component of the input is off by at most half its row's
scale, 1/254 of the largest in that row.

Source: LLM.int8() (arXiv 2208.07339), section 2.1 "vector-wise quantization", without outliers;
rows here come out of norms.

Shapes: R rows, I inputs, O output channels.
"""

from types import ModuleType

import torch
from torch import Tensor

from kernels.backends import pick
from kernels.int8_linear import cpu, reference

__all__ = ["int8_linear"]

_BACKENDS: dict[str, ModuleType] = {"reference": reference, "numba": cpu}
_MOST_INPUTS = (2**31 - 1) // 127**2
"""Sums of more could be beyond 32 bits."""


def int8_linear(
    x_RI: Tensor, weight_OI: Tensor, scale_O: Tensor, bias_O: Tensor, backend: str = "numba"
) -> Tensor:
    """Rows in float32 times quantized weights, plus bias: float32 [R, O]. A row with NaN or
    infinite values gives NaN.

    weight_OI: int8, no -128; scale_O and bias_O float32. Raises TypeError for other types and
    ValueError for shapes that do not fit, or more than 133,144 inputs.
    """
    for tensor, name, dtype in (
        (x_RI, "rows", torch.float32), (weight_OI, "weights", torch.int8),
        (scale_O, "scales", torch.float32), (bias_O, "biases", torch.float32),
    ):  # fmt: skip
        if tensor.dtype != dtype:
            raise TypeError(f"{name} are {tensor.dtype}; pass {dtype}")
    (channels, inputs), of_channels = weight_OI.shape, (len(scale_O), len(bias_O))
    if x_RI.shape[1:] != (inputs,) or of_channels != (channels, channels):
        raise ValueError(
            f"weights are {list(weight_OI.shape)} with {of_channels} scales and biases, which does "
            f"not fit rows {list(x_RI.shape)}"
        )
    if inputs > _MOST_INPUTS:
        raise ValueError(f"there are {inputs} inputs; their sums fit 32 bits up to {_MOST_INPUTS}")
    y_RO: Tensor = pick(backend, _BACKENDS).int8_linear(x_RI, weight_OI, scale_O, bias_O)
    return y_RO
