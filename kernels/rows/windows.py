"""A batch's positions by row, cut so that every row is summed alike, be it hot or rare.

The positions are sorted by row, stably, and the sorted order is cut into windows of 64. A piece is
what a window holds of one row. Most rows are one piece, which a program sums in batch order and
finishes. A row that crosses into another window leaves a partial sum in each, at most two in a
window: `2 * window` for the row that comes from before, `2 * window + 1` for the one that goes on.
Folding then adds up a row's partial sums many at a time, so that the hottest row of a power law
does not hold up the batch. Where it is cut depends on the batch alone: every run has the same bits.
"""

import weakref
from functools import cached_property

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu import launch

WINDOW = 64
_WINDOW = tl.constexpr(WINDOW)
BLOCK = 256
OPTIONS = {"BLOCK": BLOCK, "num_warps": 4}


class Batch:
    """Row numbers of one batch, known to be in range, and what is derived from them when asked.

    Touch and step of one batch share it: it stands for as long as the tensor is the same object
    and torch knows of no write to it.
    """

    def __init__(self, rows_N: Tensor, end: int) -> None:
        """Rows within 0 .. end-1."""
        self._of, self._version = weakref.ref(rows_N), _version(rows_N)
        self._end = end

    def is_of(self, rows_N: Tensor) -> bool:
        """The same rows, unwritten since."""
        return self._of() is rows_N and self._version == _version(rows_N) >= 0

    def order(self, rows_N: Tensor) -> "Order":
        """The batch by row, computed once."""
        if self._order is None:
            self._order = Order(rows_N, self._end)
        return self._order

    _order: "Order | None" = None


class Order:
    """Sorted rows (int32 while they fit) and the position of each in the batch."""

    def __init__(self, rows_N: Tensor, end: int) -> None:
        rows_N = rows_N.to(torch.int32) if end <= 2**31 else rows_N
        self.rows_N, self.positions_N = torch.sort(rows_N, stable=True)
        self.n = len(rows_N)
        self.windows = triton.cdiv(self.n, WINDOW)

    @cached_property
    def pieces(self) -> tuple[Tensor, Tensor]:
        """Where each piece starts, then N; how many there are, as a tensor: the host need not wait
        to know."""
        is_start_N = torch.empty(self.n, dtype=torch.bool, device=self.rows_N.device)
        programs = triton.cdiv(self.n, BLOCK)
        launch(mark_starts, programs, self.rows_N, self.n, is_start_N, **OPTIONS)
        ranks_N = torch.cumsum(is_start_N, 0, dtype=torch.int32)
        starts = torch.empty(self.n + 1, dtype=torch.int32, device=self.rows_N.device)
        launch(list_starts, programs, is_start_N, ranks_N, self.n, starts, **OPTIONS)
        return starts, ranks_N[-1:]


def _version(rows_N: Tensor) -> int:
    """Grows with every write that torch knows of; -1 for tensors that do not keep count."""
    return -1 if rows_N.is_inference() else rows_N._version


@triton.jit
def neighbours(rows, window, n):
    """Last row of the window before and first row of the one behind; -1 where there is none."""
    first = window * _WINDOW
    before = tl.load(rows + first - 1, mask=first > 0, other=-1)
    behind = tl.load(rows + first + _WINDOW, mask=first + _WINDOW < n, other=-1)
    return before, behind


@triton.jit(do_not_specialize=["n"])
def mark_starts(rows, n, is_start, BLOCK: tl.constexpr):
    """Where a piece starts: at a window's first position, and where the row changes."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(rows + i, mask=i < n, other=-1)
    before = tl.load(rows + i - 1, mask=(i < n) & (i % _WINDOW != 0), other=-1)
    tl.store(is_start + i, row != before, mask=i < n)


@triton.jit(do_not_specialize=["n"])
def list_starts(is_start, ranks, n, starts, BLOCK: tl.constexpr):
    """The starts in order, and N behind the last."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rank = tl.load(ranks + i, mask=i < n, other=0)
    chosen = tl.load(is_start + i, mask=i < n, other=0) != 0
    tl.store(starts + rank - 1, i, mask=chosen)
    tl.store(starts + rank, n + i * 0, mask=i == n - 1)
