"""Row codes in plain torch: the specification."""

import torch
from torch import Tensor

from kernels.row_codes.codes import Codes, refuse_outside


def limits(rows_RD: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest component of each row; not finite where a component is not."""
    low_R, high_R = rows_RD.aminmax(dim=1)
    return low_R, high_R


def encode(rows_RD: Tensor, scale_R: Tensor, bias_R: Tensor, largest: int) -> Tensor:
    """Nearest code of each component, 0 .. `largest`, ties to even; scale and bias are rounded
    already."""
    step_R1 = torch.where(scale_R > 0, scale_R, 1.0).unsqueeze(1)
    levels_RD = (rows_RD - bias_R.unsqueeze(1)) / step_R1
    return levels_RD.round().clamp(0, largest).to(torch.uint8)


def gather_decode(codes: Codes | Tensor, rows_N: Tensor, dtype: torch.dtype) -> Tensor:
    """See `kernels.row_codes.gather_decode`."""
    refuse_outside(rows_N, len(codes if isinstance(codes, Tensor) else codes.codes_RB))
    if isinstance(codes, Tensor):
        return codes[rows_N].float().to(dtype)
    scale_N1 = codes.scale_R[rows_N].float().unsqueeze(1)
    bias_N1 = codes.bias_R[rows_N].float().unsqueeze(1)
    rows_ND = bias_N1 + _unpacked(codes.codes_RB[rows_N], codes.bits).float() * scale_N1
    return rows_ND.to(dtype)


def _unpacked(codes_NB: Tensor, bits: int) -> Tensor:
    if bits == 8:
        return codes_NB
    return torch.stack([codes_NB & 15, codes_NB >> 4], dim=2).flatten(1)
