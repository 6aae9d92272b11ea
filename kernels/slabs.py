"""Columns by row in device memory, in slabs of 2^16 rows.

A column grows by whole slabs: nothing moves, and nothing is copied. Kernels find a row through a
table of the slabs' addresses, which a handful of cache lines hold. Slabs of 10 MiB and more (a
vector of 40 numbers) lie in segments of their own; smaller ones share those of torch's allocator.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu import launch

SLAB_ROWS = 1 << 16
_BITS = tl.constexpr(16)
_WITHIN = tl.constexpr(SLAB_ROWS - 1)

_TILE = 2048
"""Numbers that a program copies."""


class Slabs:
    """One column: rows 0 .. capacity-1 of a few numbers each; `addresses` is what kernels take."""

    def __init__(self, empty: Tensor) -> None:
        """No rows yet. `empty`, on the column's device, is what a new row holds."""
        self._empty = empty
        self._slabs: list[Tensor] = []
        # Never empty: kernels read an address for row 0 where they want no row.
        self.addresses = torch.zeros(1, dtype=torch.int64, device=empty.device)

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(slab.nbytes for slab in self._slabs) + self.addresses.nbytes

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self._empty.nbytes

    def extend(self, rows: int) -> None:
        """Make at least so many rows exist."""
        missing = triton.cdiv(rows, SLAB_ROWS) - len(self._slabs)
        if missing <= 0:
            return
        self._slabs += [self._empty.repeat(SLAB_ROWS, 1) for _ in range(missing)]
        addresses = [slab.data_ptr() for slab in self._slabs]
        self.addresses = torch.tensor(addresses, device=self._empty.device)

    def copy(self, first: int, end: int) -> Tensor:
        """Rows first .. end-1, [end - first, numbers]."""
        return torch.cat([self._empty.new_empty(0, len(self._empty)), *self._slices(first, end)])

    def fill(self, rows_RW: Tensor) -> None:
        """Write whole rows from row 0 on."""
        done = 0
        for part in self._slices(0, len(rows_RW)):
            part.copy_(rows_RW[done : done + len(part)])
            done += len(part)

    def read(self, rows_N: Tensor, out_NW: Tensor, offset: int = 0) -> None:
        """Copy rows' numbers from a byte offset on; type and width are those of `out_NW`."""
        _on_rows(read_rows, self, rows_N, out_NW, offset)

    def write(self, rows_N: Tensor, values_NW: Tensor, offset: int = 0) -> None:
        """Overwrite distinct rows' numbers from a byte offset on."""
        _on_rows(write_rows, self, rows_N, values_NW, offset)

    def _slices(self, first: int, end: int) -> list[Tensor]:
        slabs = range(first // SLAB_ROWS, triton.cdiv(end, SLAB_ROWS)) if first < end else ()
        starts = [slab * SLAB_ROWS for slab in slabs]
        return [
            self._slabs[start // SLAB_ROWS][max(first - start, 0) : end - start] for start in starts
        ]


def copy_options(width: int, stride: int, offset: int) -> dict[str, int]:
    """How `read_rows` and `write_rows` are compiled for `width` numbers of rows of `stride`."""
    padded = triton.next_power_of_2(width)
    rows = max(_TILE // max(padded, 2), 1)
    shape = {"STRIDE": stride, "OFFSET": offset, "WIDTH": width, "PADDED": padded}
    return {**shape, "ROWS": rows, "num_warps": 4}


def _on_rows(kernel: Any, slabs: Slabs, rows_N: Tensor, values_NW: Tensor, offset: int) -> None:
    (n, width), size = values_NW.shape, values_NW.dtype.itemsize
    options = copy_options(width, slabs.row_bytes // size, offset // size)
    programs = triton.cdiv(n, options["ROWS"])
    launch(kernel, programs, rows_N, slabs.addresses, values_NW, n, **options)


@triton.jit
def row_pointer(addresses, row, KIND: tl.constexpr, STRIDE: tl.constexpr):
    """Where each row of a column starts, which has `STRIDE` numbers of a kind in a row.

    The rows must exist. The hint, which only a pointer keeps, is what lets loads be 16 bytes wide.
    """
    slab = tl.load(addresses + (row >> _BITS)).to(tl.pointer_type(KIND))
    return tl.multiple_of(slab, 16) + (row & _WITHIN) * STRIDE


@triton.jit(do_not_specialize=["n"])
def read_rows(
    rows, addresses, out, n, STRIDE: tl.constexpr, OFFSET: tl.constexpr,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """out[i] = numbers of row rows[i]."""
    place, i, mask = _tile(rows, addresses, out, n, STRIDE, OFFSET, WIDTH, PADDED, ROWS)
    tl.store(i, tl.load(place, mask=mask), mask=mask)


@triton.jit(do_not_specialize=["n"])
def write_rows(
    rows, addresses, values, n, STRIDE: tl.constexpr, OFFSET: tl.constexpr,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Numbers of row rows[i] = values[i]."""
    place, i, mask = _tile(rows, addresses, values, n, STRIDE, OFFSET, WIDTH, PADDED, ROWS)
    tl.store(place, tl.load(i, mask=mask), mask=mask)


@triton.jit
def _tile(
    rows, addresses, dense, n, STRIDE: tl.constexpr, OFFSET: tl.constexpr,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Places in the column, places in the dense tensor, and which exist: [ROWS, PADDED] each."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, PADDED)[None, :]
    row = tl.load(rows + i, mask=i < n, other=0)
    first = row_pointer(addresses, row, dense.dtype.element_ty, STRIDE) + OFFSET
    dense_at = dense + i.to(tl.int64)[:, None] * WIDTH + column
    return first[:, None] + column, dense_at, (i < n)[:, None] & (column < WIDTH)
