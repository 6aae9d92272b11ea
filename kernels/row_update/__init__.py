"""What a training step does to rows: read them, mark them used, move them by their gradients.

All functions work in place on float32 CPU tables and give the same bits in every run. Row numbers
may repeat. Every one of them is checked before anything is written.
"""

from types import ModuleType

import torch
from torch import Tensor

from kernels.backends import pick
from kernels.row_update import cpu, reference

__all__ = ["adagrad", "gather", "touch"]

_BACKENDS: dict[str, ModuleType] = {"reference": reference, "numba": cpu}


def gather(table_RD: Tensor, rows_N: Tensor, backend: str = "numba") -> Tensor:
    """Copies of the rows, [N, D]. Raises IndexError for a row outside 0 .. R-1."""
    _check(rows_N, table_RD)
    out_ND: Tensor = pick(backend, _BACKENDS).gather(table_RD, rows_N)
    return out_ND


def touch(
    last_seen_R: Tensor, counts_R: Tensor, rows_N: Tensor, at_ms_N: Tensor, backend: str = "numba"
) -> None:
    """One occurrence of each row at a time: `last_seen_R` (int64 ms) becomes the latest, `counts_R`
    (float32, exact up to 2^24) grows by one. Row 0, the unknown row, is passed over."""
    _check(rows_N, last_seen_R, counts_R)
    if at_ms_N.shape != rows_N.shape or at_ms_N.dtype != torch.int64:
        raise ValueError(
            f"at_ms is {_form(at_ms_N)}; pass an int64 time for each of {len(rows_N)} rows"
        )
    pick(backend, _BACKENDS).touch(last_seen_R, counts_R, rows_N, at_ms_N)


def adagrad(
    table_RD: Tensor,
    squares_R: Tensor,
    rows_N: Tensor,
    grads_ND: Tensor,
    learning_rate: float,
    eps: float = 1e-8,
    backend: str = "numba",
) -> None:
    """One row-wise Adagrad step for each distinct row of the batch.

    g = sum of the row's gradients in batch order; squares += mean(g^2);
    row -= learning_rate * g / (sqrt(squares) + eps).

    Adagrad: Duchi, Hazan and Singer 2011; one accumulator per row as in DLRM. `squares_R` is
    float32 and starts at 0. Raises IndexError for a row outside 0 .. R-1.
    """
    _check(rows_N, table_RD, squares_R)
    if grads_ND.shape != (len(rows_N), table_RD.shape[1]) or grads_ND.dtype != torch.float32:
        raise ValueError(
            f"gradients are {_form(grads_ND)}; {len(rows_N)} rows of width {table_RD.shape[1]} "
            "need one float32 gradient each"
        )
    step = pick(backend, _BACKENDS).adagrad
    step(table_RD, squares_R, rows_N, grads_ND.detach(), learning_rate, eps)


def _check(rows_N: Tensor, *by_row: Tensor) -> None:
    if rows_N.dtype != torch.int64 or rows_N.dim() != 1:
        raise TypeError(f"row numbers are {_form(rows_N)}; pass a one-dimensional int64 tensor")
    for tensor in by_row:
        if not tensor.is_contiguous() or tensor.shape[0] != by_row[0].shape[0]:
            raise ValueError(
                f"a table of {_form(tensor)} does not fit: contiguous, one entry per row"
            )


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
