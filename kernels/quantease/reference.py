"""Coordinate descent in plain torch, as the paper writes it: the specification."""

import torch
from torch import Tensor

from kernels.quantease.grid import levels


def descend(
    weight_OI: Tensor, moments_II: Tensor, order_A: Tensor, free_OI: Tensor,
    scale_O: Tensor, zero_O: Tensor, codes_OI: Tensor, passes: int,
) -> Tensor:  # fmt: skip
    """Codes after so many passes over the columns of `order_A`, from `codes_OI`. What is not free
    is exact and stays."""
    level_OL = levels(scale_O, zero_O).double()
    weight_OI, codes_OI = weight_OI.double(), codes_OI.long()
    hat_OI = torch.where(free_OI, level_OL.gather(1, codes_OI), weight_OI)
    for _ in range(passes):
        for j in order_A.tolist():
            others_I = moments_II[:, j].clone()
            others_I[j] = 0
            best_O = (weight_OI @ moments_II[:, j] - hat_OI @ others_I) / moments_II[j, j]
            near_O = (best_O[:, None] - level_OL).abs().argmin(1)
            nearer_O = (best_O - level_OL.gather(1, near_O[:, None])[:, 0]).abs() < (
                best_O - hat_OI[:, j]
            ).abs()
            moves_O = free_OI[:, j] & nearer_O
            codes_OI[:, j] = torch.where(moves_O, near_O, codes_OI[:, j])
            here_O = level_OL.gather(1, codes_OI[:, j : j + 1])[:, 0]
            hat_OI[:, j] = torch.where(moves_O, here_O, hat_OI[:, j])
    return codes_OI.to(torch.uint8)


def squares(error_OI: Tensor, moments_II: Tensor) -> Tensor:
    """e S e of every channel, [O]."""
    return ((error_OI @ moments_II) * error_OI).sum(1)
