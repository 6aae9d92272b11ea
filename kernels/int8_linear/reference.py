"""The specification, in plain torch: integers are multiplied in float64, which holds their sums."""

import torch
from torch import Tensor

LARGEST_CODE = 127
SMALLEST_ROW = 1e-30
"""Rows whose every component is smaller are zero: their inverse scale could be beyond float32."""


def int8_linear(x_RI: Tensor, weight_OI: Tensor, scale_O: Tensor, bias_O: Tensor) -> Tensor:
    """See `kernels.int8_linear.int8_linear`."""
    codes_RI, scale_R = quantized(x_RI)
    sums_RO = (codes_RI.double() @ weight_OI.double().T).float()
    return sums_RO * scale_R[:, None] * scale_O + bias_O


def quantized(x_RI: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [R, I] int8, ties to even, and the scale [R] of each row, NaN where a row is not
    finite."""
    largest_R = x_RI.abs().amax(1) if x_RI.shape[1] else x_RI.new_zeros(len(x_RI))
    is_zero_R = largest_R < SMALLEST_ROW
    is_finite_R = largest_R.isfinite()
    inverse_R = torch.where(is_zero_R | ~is_finite_R, 0.0, LARGEST_CODE / largest_R)
    scale_R = torch.where(is_zero_R, 0.0, largest_R / LARGEST_CODE)
    codes_RI = torch.where(is_finite_R[:, None], x_RI, 0.0) * inverse_R[:, None]
    return codes_RI.round().to(torch.int8), torch.where(is_finite_R, scale_R, torch.nan)
