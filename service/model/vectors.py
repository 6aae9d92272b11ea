"""Vectors of a server's rows in the precision that a snapshot has them in, in place.

They are decoded where they are read. Rows of another precision that come with a delta make all of
them more precise, if they must: int4 rows fit in int8 ones, whatever else meets is kept as float32.
Nothing is rounded again.

Shapes: R rows, M written rows, T freed rows, C asked for; D width, B bytes of a row.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.reserved import Reserved
from kernels.row_codes import Codes, gather_decode, widened

Bytes = npt.NDArray[np.uint8]
Halves = npt.NDArray[np.uint16]
Longs = npt.NDArray[np.int64]

INT8, INT4, FP16, FP32 = range(4)
"""Kinds of rows, for loops over them."""

CHUNK_ROWS = 1 << 14
"""Rows decoded at a time when all are: they stay in the processor's cache."""

_FLOATS = {FP16: torch.float16, FP32: torch.float32}
_BITS = {INT8: 8, INT4: 4}


class Table(NamedTuple):
    """Rows for loops over them: their kind, bytes one row after another, scales and biases (of
    codes, as the bits of float16), the bytes of a row and its numbers."""

    kind: np.uint64
    data: Bytes
    scale: Halves
    bias: Halves
    row_bytes: np.uint64
    width: np.uint64


class Parts(NamedTuple):
    """M rows as they are written: bytes [M, B], and of codes scales and biases [M]."""

    data: Bytes
    scale: Halves
    bias: Halves


class Vectors:
    """Rows of one precision, in memory that grows without moving."""

    def __init__(self, codes: Codes | Tensor) -> None:
        """Take over all rows of a slot, codes or float32 or float16 [R, D]."""
        parts = _parts(codes)
        self.width = codes.shape[1] if isinstance(codes, Tensor) else codes.width
        self._kind, self._row_bytes = _kind(codes), parts.data.shape[1]
        self._data = Reserved(np.uint8, self._row_bytes)
        self._scale, self._bias = Reserved(np.uint16), Reserved(np.uint16)
        for column, part in zip(self._extended(len(parts.data)), parts, strict=False):
            column[:] = part

    def __len__(self) -> int:
        return self._data.length

    @property
    def nbytes(self) -> int:
        """Bytes of the pages that hold rows: B and, of codes, 4 for each of R."""
        return self._data.nbytes + self._scale.nbytes + self._bias.nbytes

    @property
    def table(self) -> Table:
        """The rows for compiled loops; true until the next `apply`."""
        return Table(
            np.uint64(self._kind), self._data.flat, self._scale.flat, self._bias.flat,
            np.uint64(self._row_bytes), np.uint64(self.width),
        )  # fmt: skip

    def gather(self, rows_C: Tensor) -> Tensor:
        """Rows in float32, [C, D]. Raises IndexError for a row that is not there."""
        return gather_decode(self.codes(), rows_C)

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """All rows in float32, some at a time, with the number of the first."""
        for first in range(0, len(self), CHUNK_ROWS):
            yield first, self.gather(torch.arange(first, min(first + CHUNK_ROWS, len(self))))

    def fit_for(self, codes: Codes | Tensor) -> "Vectors":
        """These, if they can hold such rows as well without rounding; else a copy that can."""
        kinds = {self._kind, _kind(codes)}
        wanted = self._kind if len(kinds) == 1 else INT8 if kinds == {INT4, INT8} else FP32
        return self if wanted == self._kind else Vectors(_as(self.codes(), wanted))

    def parts_of(self, codes: Codes | Tensor) -> Parts:
        """Rows as `apply` takes them; they must fit. Changes nothing.

        Raises MemoryError when there is no room for so many more.
        """
        parts = _parts(_as(codes, self._kind))
        for column in (self._data, self._scale, self._bias):
            column.ahead(len(self) + len(parts.data))
        return parts

    def apply(self, end: int, freed_T: Longs, rows_M: Longs, parts: Parts) -> None:
        """Make freed rows zero and write others, with `end` rows in all."""
        for column, part in zip(self._extended(end), parts, strict=False):
            column[freed_T] = 0
            column[rows_M] = part

    def _extended(self, end: int) -> list[npt.NDArray[Any]]:
        """The columns in use, each with `end` rows."""
        data_RB = self._data.extend(end).reshape(-1, self._row_bytes)
        return [data_RB, *(c.extend(end) for c in (self._scale, self._bias) if self._kind in _BITS)]

    def codes(self) -> Codes | Tensor:
        """All rows as they are kept; true until the next `apply`."""
        data_RB = torch.from_numpy(self._data.flat).view(-1, self._row_bytes)
        if self._kind in _FLOATS:
            return data_RB.view(_FLOATS[self._kind])
        scale_R, bias_R = (
            torch.from_numpy(column.flat.view(np.float16)) for column in (self._scale, self._bias)
        )
        return Codes(data_RB, scale_R, bias_R, _BITS[self._kind])


def _kind(codes: Codes | Tensor) -> int:
    if isinstance(codes, Tensor):
        return FP16 if codes.dtype == torch.float16 else FP32
    return INT8 if codes.bits == 8 else INT4


def _as(codes: Codes | Tensor, kind: int) -> Codes | Tensor:
    """Rows as rows of a kind that holds them without rounding."""
    if isinstance(codes, Tensor):
        return codes.to(_FLOATS[kind])
    if kind in _BITS:
        return codes if codes.bits == _BITS[kind] else widened(codes)
    return gather_decode(codes, torch.arange(len(codes.codes_RB)))


def _parts(codes: Codes | Tensor) -> Parts:
    if isinstance(codes, Tensor):
        nothing = np.zeros(0, np.uint16)
        return Parts(_numpy(codes.contiguous().view(torch.uint8)), nothing, nothing)
    scale, bias = (_numpy(half_R.view(torch.uint16)) for half_R in (codes.scale_R, codes.bias_R))
    return Parts(_numpy(codes.codes_RB), scale, bias)


def _numpy(numbers: Tensor) -> Any:
    return numbers.numpy()
