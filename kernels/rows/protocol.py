"""What every table of rows promises, whatever its backend."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from kernels.rows.columns import form
from kernels.rows.decay import Decay
from kernels.rows.optimizers import Optimizer


class RowTable(Protocol):
    """Rows 0 .. end-1 of `width` numbers each, with optimizer state, last use, counts and marks.

    Columns and their types are those of `kernels.rows.columns`; "moments" exists with Adam alone.
    Row numbers are int64 [N] on the table's device; IndexError for one outside 0 .. end-1, before
    anything is written. One owner at a time; results do not depend on the number of threads.
    """

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        ...

    @property
    def end(self) -> int:
        """One more than the largest row."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the pages that hold the rows."""
        ...

    def extend(self, end: int) -> None:
        """Make rows up to `end` exist (never fewer than before); new ones are empty."""
        ...

    def put(self, rows_M: Tensor, columns: dict[str, Tensor]) -> None:
        """Write the named columns of distinct rows; ValueError for a name, type or shape that does
        not fit."""
        ...

    def take(self, rows_M: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Copies of the named columns of rows; of all columns by default."""
        ...

    def clear(self, rows_M: Tensor) -> None:
        """Make rows empty again, marks included."""
        ...

    def column(self, name: str, first: int = 0, end: int | None = None) -> Tensor:
        """Rows first .. end-1 of a column. On CPU a view, true however the table grows; on a GPU
        a copy."""
        ...

    def gather(self, rows_N: Tensor, out_ND: Tensor | None = None) -> Tensor:
        """Copies of the rows' vectors, [N, D], in `out_ND` if it is given."""
        ...

    def touch(self, rows_N: Tensor, at_ms_N: Tensor, decay: Decay) -> None:
        """One occurrence of each row at a time, in batch order: `last_seen_ms` becomes the latest
        (NEVER_MS, an empty row's, stays), `weight` grows by g(at), the row counts as changed. Row
        0, the unknown row, is passed over."""
        ...

    def step(self, rows_N: Tensor, grads_ND: Tensor, optimizer: Optimizer, decay: Decay) -> None:
        """Sum the gradients of equal rows in batch order, then one step for each distinct row,
        which counts as changed."""
        ...

    def changed(self) -> Tensor:
        """Rows that count as changed, ascending, int64 [M]."""
        ...


def check_rows(rows_N: Tensor, device: torch.device) -> None:
    """TypeError unless these are row numbers on the table's device."""
    if rows_N.dtype != torch.int64 or rows_N.dim() != 1 or rows_N.device.type != device.type:
        raise TypeError(
            f"row numbers are {form(rows_N)}; pass a one-dimensional int64 tensor on {device}"
        )


def outside_error(row: int, end: int) -> IndexError:
    """The error for a row that does not exist."""
    return IndexError(f"row {row} is outside 0 .. {end - 1}")


def check_slice(first: int, end: int, rows: int) -> None:
    """IndexError unless first .. end-1 is a range of the table's rows."""
    if not 0 <= first <= end <= rows:
        raise IndexError(f"rows {first} .. {end - 1} are no range of the rows 0 .. {rows - 1}")


def check_times(at_ms_N: Tensor, rows_N: Tensor) -> None:
    """ValueError unless there is a time for each row."""
    if at_ms_N.shape != rows_N.shape or at_ms_N.dtype != torch.int64:
        raise ValueError(
            f"at_ms is {form(at_ms_N)}; pass an int64 time for each of {len(rows_N)} rows"
        )


def check_gradients(grads_ND: Tensor, rows_N: Tensor, width: int) -> None:
    """ValueError unless there is a gradient for each row."""
    if grads_ND.shape != (len(rows_N), width) or grads_ND.dtype != torch.float32:
        raise ValueError(
            f"gradients are {form(grads_ND)}; {len(rows_N)} rows of width {width} need one float32 "
            "gradient each"
        )


def check_out(out_ND: Tensor, rows_N: Tensor, width: int) -> None:
    """ValueError unless the vectors of the rows can be written there."""
    fits = out_ND.shape == (len(rows_N), width) and out_ND.dtype == torch.float32
    if not fits or not out_ND.is_contiguous():
        raise ValueError(
            f"out is {form(out_ND)}; {len(rows_N)} rows need a contiguous float32 "
            f"{[len(rows_N), width]}"
        )
