"""Row operations in numba, over flat arrays with unsigned indices: signed ones, which may wrap,
keep the compiler from vectorising the copy of a row and cost a factor of four."""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.mixing import mix64

_REORDERED = {"reassoc", "nsz", "contract"}
"""Lets sums over a row use vector lanes: another order than the reference's, the same every run."""


def gather(table_RD: Tensor, rows_N: Tensor) -> Tensor:
    end, width = table_RD.shape
    out_ND = torch.empty(len(rows_N), width)
    rows = rows_N.contiguous().numpy()
    flat, out = table_RD.view(-1).numpy(), out_ND.view(-1).numpy()
    _refuse_outside(_gather(flat, rows, np.uint64(end), np.uint64(width), out), rows, end)
    return out_ND


def touch(last_seen_R: Tensor, counts_R: Tensor, rows_N: Tensor, at_ms_N: Tensor) -> None:
    rows = rows_N.contiguous().numpy()
    _refuse_outside(_first_outside(rows, np.uint64(len(counts_R))), rows, len(counts_R))
    _touch(last_seen_R.numpy(), counts_R.numpy(), rows, at_ms_N.contiguous().numpy())


def adagrad(
    table_RD: Tensor,
    squares_R: Tensor,
    rows_N: Tensor,
    grads_ND: Tensor,
    learning_rate: float,
    eps: float,
) -> None:
    end, width = table_RD.shape
    rows = rows_N.contiguous().numpy()
    _refuse_outside(_first_outside(rows, np.uint64(end)), rows, end)
    rates = np.float32(learning_rate), np.float32(eps)
    flat, grads = table_RD.view(-1).numpy(), grads_ND.contiguous().view(-1).numpy()
    _adagrad(flat, squares_R.numpy(), rows, grads, np.uint64(width), *rates)


def _refuse_outside(position: int, rows: Any, end: int) -> None:
    if position < len(rows):
        raise IndexError(f"row {rows[position]} is outside 0 .. {end - 1}")


@njit(cache=True, nogil=True)
def _first_outside(rows: Any, end: Any) -> int:
    """Position of the first row number outside 0 .. end-1 (negative ones are huge), or N."""
    for i in range(len(rows)):
        if np.uint64(rows[i]) >= end:
            return i
    return len(rows)


@njit(cache=True, nogil=True)
def _gather(table: Any, rows: Any, end: Any, width: Any, out: Any) -> int:
    for i in range(len(rows)):
        row = np.uint64(rows[i])
        if row >= end:
            return i
        source, target = row * width, np.uint64(i) * width
        for d in range(width):
            out[target + d] = table[source + d]
    return len(rows)


@njit(cache=True, nogil=True)
def _touch(last_seen: Any, counts: Any, rows: Any, at_ms: Any) -> None:
    for i in range(len(rows)):
        row = np.uint64(rows[i])
        if row:
            last_seen[row] = max(last_seen[row], at_ms[i])
            counts[row] += np.float32(1)


@njit(cache=True, nogil=True)
def _chains(rows: Any, head: Any, after: Any) -> int:
    """Link the positions of equal rows in batch order: `head` by distinct row, `after` by position.

    Returns the number of distinct rows; N ends a chain. Slots of the scratch table hold 1 + the
    distinct row's number, 0 where empty.
    """
    n = len(rows)
    size = 2
    while size < 2 * n:
        size *= 2
    mask = np.uint64(size - 1)
    slots = np.zeros(size, np.uint32)
    tail = np.empty(n, np.uint32)
    distinct = 0
    for i in range(n):
        after[i] = n
        slot = mix64(np.uint64(rows[i])) & mask
        while slots[slot] and rows[head[slots[slot] - 1]] != rows[i]:
            slot = (slot + np.uint64(1)) & mask
        if slots[slot]:
            after[tail[slots[slot] - 1]] = i
            tail[slots[slot] - 1] = i
        else:
            head[distinct] = tail[distinct] = i
            distinct += 1
            slots[slot] = distinct
    return distinct


@njit(cache=True, nogil=True, fastmath=_REORDERED)
def _adagrad(
    table: Any, squares: Any, rows: Any, grads: Any, width: Any, rate: Any, eps: Any
) -> None:
    n = np.uint64(len(rows))
    head, after = np.empty(n, np.uint32), np.empty(n, np.uint32)
    total = np.empty(width, np.float32)
    for u in range(_chains(rows, head, after)):
        position = np.uint64(head[u])
        row = np.uint64(rows[position])
        for d in range(width):
            total[d] = grads[position * width + d]
        position = np.uint64(after[position])
        while position < n:
            for d in range(width):
                total[d] += grads[position * width + d]
            position = np.uint64(after[position])
        norm = np.float32(0)
        for d in range(width):
            norm += total[d] * total[d]
        squares[row] += norm / np.float32(width)
        step = rate / (np.sqrt(squares[row]) + eps)
        for d in range(width):
            table[row * width + d] -= step * total[d]
