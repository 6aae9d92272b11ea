"""Row operations in plain torch: the specification. Sums run in batch order."""

import torch
from torch import Tensor


def gather(table_RD: Tensor, rows_N: Tensor) -> Tensor:
    _check_range(rows_N, len(table_RD))
    return table_RD[rows_N]


def touch(last_seen_R: Tensor, counts_R: Tensor, rows_N: Tensor, at_ms_N: Tensor) -> None:
    _check_range(rows_N, len(counts_R))
    known = rows_N > 0
    last_seen_R.scatter_reduce_(0, rows_N[known], at_ms_N[known], "amax")
    counts_R.index_add_(0, rows_N[known], torch.ones(int(known.sum())))


def adagrad(
    table_RD: Tensor,
    squares_R: Tensor,
    rows_N: Tensor,
    grads_ND: Tensor,
    learning_rate: float,
    eps: float,
) -> None:
    _check_range(rows_N, len(table_RD))
    rows_U, place_N = torch.unique(rows_N, return_inverse=True)
    sums_UD = torch.zeros(len(rows_U), table_RD.shape[1]).index_add_(0, place_N, grads_ND)
    squares_R[rows_U] += sums_UD.square().mean(dim=1)
    steps_U1 = learning_rate / (squares_R[rows_U].sqrt() + eps).unsqueeze(1)
    table_RD[rows_U] -= steps_U1 * sums_UD


def _check_range(rows_N: Tensor, end: int) -> None:
    outside = (rows_N < 0) | (rows_N >= end)
    if outside.any():
        raise IndexError(f"row {int(rows_N[outside][0])} is outside 0 .. {end - 1}")
