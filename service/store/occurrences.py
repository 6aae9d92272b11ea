"""What the occurrences of one batch have in common. One loop each on the CPU, torch elsewhere.

On the CPU torch would share such light work among threads, and wait for them when other work holds
the cores.
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

MOST_OCCURRENCES = 2**31 - 1
"""Where a waiting id's count stays."""


def number_from_one(index_rows_N: Tensor) -> Tensor | None:
    """Turn the index's rows (from 0, -1: absent) into the table's (from 1, 0: absent), in place.

    Returns the positions of the absent ones, ascending, or None where there are none.
    """
    if index_rows_N.is_cpu:
        rows = index_rows_N.numpy()
        absent = _number_from_one(rows)
        return torch.from_numpy(np.flatnonzero(rows == 0)) if absent else None
    absent_A = (index_rows_N.add_(1) == 0).nonzero().squeeze(1)
    return absent_A if len(absent_A) else None


def count_up(counts_R: Tensor, rows_A: Tensor) -> Tensor:
    """Add each occurrence to its row's count (int32, in place); the count with it, int64 [A]."""
    if not rows_A.is_cpu:
        return _count_up_sorted(counts_R, rows_A)
    nth_A = torch.empty_like(rows_A)
    _count_up(counts_R.numpy(), rows_A.numpy(), nth_A.numpy())
    return nth_A


def since_first(hits_A: Tensor, keys_A: Tensor) -> Tensor:
    """True from the first hit of each key on (bool [A])."""
    place_A, first_U = _firsts(hits_A, keys_A)
    return torch.arange(len(keys_A), device=keys_A.device) >= first_U[place_A]


def of_first_keys(keys_A: Tensor, limit: int) -> Tensor:
    """True for occurrences of the first `limit` distinct keys (bool [A])."""
    place_A, first_U = _firsts(torch.ones_like(keys_A, dtype=torch.bool), keys_A)
    rank_U = torch.empty_like(first_U)
    rank_U[first_U.argsort()] = torch.arange(len(first_U), device=keys_A.device)
    return rank_U[place_A] < limit


def _firsts(hits_A: Tensor, keys_A: Tensor) -> tuple[Tensor, Tensor]:
    """Which distinct key each occurrence has, and where each distinct key has its first hit, A
    if it has none."""
    unique_U, place_A = keys_A.unique(return_inverse=True)
    position_A = torch.arange(len(keys_A), device=keys_A.device)
    first_U = torch.full_like(unique_U, len(keys_A))
    return place_A, first_U.scatter_reduce_(0, place_A[hits_A], position_A[hits_A], "amin")


@njit(cache=True, nogil=True)
def _number_from_one(rows: Any) -> int:
    absent = 0
    for i in range(len(rows)):
        rows[i] += 1
        absent += rows[i] == 0
    return absent


@njit(cache=True, nogil=True)
def _count_up(counts: Any, rows: Any, nth: Any) -> None:
    for i in range(len(rows)):
        row = np.uint64(rows[i])
        if counts[row] < MOST_OCCURRENCES:
            counts[row] += np.int32(1)
        nth[i] = counts[row]


def _count_up_sorted(counts_R: Tensor, rows_A: Tensor) -> Tensor:
    sorted_A, order_A = rows_A.sort(stable=True)
    place_A = torch.arange(len(rows_A), device=rows_A.device)
    earlier_A = place_A - torch.searchsorted(sorted_A, sorted_A)
    nth_A = torch.empty_like(rows_A)
    nth_A[order_A] = (counts_R[sorted_A] + earlier_A + 1).clamp_(max=MOST_OCCURRENCES)
    counts_R.scatter_reduce_(0, rows_A, nth_A.int(), "amax")
    return nth_A
