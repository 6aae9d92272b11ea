"""Original ids by row, packed, in memory that grows at its end.

The bytes of ids that were replaced or freed stay until they are more than those in use: then a
step carries all ids, packed anew.

Shapes: R rows, M written rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from kernels.reserved import Reserved
from service.actions import Id
from service.versions import RowIds

Longs = npt.NDArray[np.int64]
Shorts = npt.NDArray[np.int16]
Bytes = npt.NDArray[np.uint8]

SPARE_BYTES = 1 << 20
"""Bytes out of use that are never worth packing anew."""


@dataclass(frozen=True, eq=False)
class IdStep:
    """Ids of M rows to be written. `packed` is all that stands by then, if it is moved first."""

    length_M: Shorts
    utf8: Bytes
    packed: "ItemIds | None"


class ItemIds:
    """The id of every row: -1 as a length says that the key is the id."""

    def __init__(self, length_R: Shorts, utf8: Bytes) -> None:
        """`utf8` has the ids one after another, in the order of the rows."""
        self._start, self._length = Reserved(np.int64), Reserved(np.int16)
        self._utf8 = Reserved(np.uint8)
        rows = len(length_R)
        self._length.extend(rows)[:] = length_R
        self._start.extend(rows)[:] = _starts(length_R, 0)
        self._utf8.extend(len(utf8))[:] = utf8
        self._limit = 2 * len(utf8) + SPARE_BYTES

    @classmethod
    def of(cls, ids: RowIds | None, rows: int) -> "ItemIds":
        """The ids of a snapshot's rows; without any, each is its key."""
        return cls(*_parts(ids, rows))

    def prepare(self, ids: RowIds | None, rows: int) -> IdStep:
        """What `apply` needs to write these `rows` ids. Changes nothing."""
        length_M, utf8 = _parts(ids, rows)
        end = self._utf8.length + len(utf8)
        self._utf8.ahead(end)
        return IdStep(length_M, utf8, self._packed() if end > self._limit else None)

    def apply(self, step: IdStep, freed_T: Longs, rows_M: Longs, end: int) -> None:
        """Forget the ids of freed rows, then write those of the step, with `end` rows in all."""
        if (packed := step.packed) is not None:
            self._start, self._length, self._utf8 = packed._start, packed._length, packed._utf8
            self._limit = packed._limit
        first = self._utf8.length
        self._utf8.extend(first + len(step.utf8))[first:] = step.utf8
        start_R, length_R = self._start.extend(end), self._length.extend(end)
        length_R[freed_T] = 0
        start_R[rows_M], length_R[rows_M] = _starts(step.length_M, first), step.length_M

    def at(self, row: int, key: int) -> Id:
        """The id of a row that has this key."""
        length, first = int(self._length.flat[row]), int(self._start.flat[row])
        if length < 0:
            return key
        return self._utf8.flat[first : first + length].tobytes().decode()

    def _packed(self) -> "ItemIds":
        length_R = self._length.flat.copy()
        utf8 = np.empty(length_R.clip(min=0).sum(dtype=np.int64), np.uint8)
        _gather(self._start.flat, length_R, self._utf8.flat, utf8)
        return ItemIds(length_R, utf8)


def _parts(ids: RowIds | None, rows: int) -> tuple[Shorts, Bytes]:
    if ids is None:
        return np.full(rows, -1, np.int16), np.empty(0, np.uint8)
    return ids.lengths_R.numpy(), ids.utf8.numpy()


def _starts(length_M: Shorts, first: int) -> Longs:
    """Where ids begin that stand one after another from `first` on."""
    bytes_M = length_M.clip(min=0).astype(np.int64)
    starts_M: Longs = bytes_M.cumsum() - bytes_M + first
    return starts_M


@njit(cache=True, nogil=True)
def _gather(start: Any, length: Any, source: Any, to: Any) -> None:
    at = np.uint64(0)
    for r in range(len(length)):
        first = np.uint64(start[r])
        for i in range(max(length[r], 0)):
            to[at] = source[first + np.uint64(i)]
            at += np.uint64(1)
