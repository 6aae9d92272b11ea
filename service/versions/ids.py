"""Original ids of rows, packed: a million Python strings would take a second to make.

R rows, N rows asked for.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from service.actions import MAX_ID_BYTES, Id
from service.versions.checks import expect

IS_KEY = -1
"""In place of a length: the id is an integer, and has no bytes."""

Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RowIds(Sequence[Id]):
    """Ids by row. `utf8` uint8 holds the string ids, one after another in row order, `lengths_R`
    int16 their bytes; where it is IS_KEY the id is an integer, and stands in `integers_R` int64.
    """

    lengths_R: Tensor
    utf8: Tensor
    integers_R: Tensor

    def __post_init__(self) -> None:
        """Raise ValueError for tensors that do not fit together. The text is read by `checked`."""
        rows = self.lengths_R.numel()
        expect("ids/lengths", self.lengths_R, torch.int16, [rows])
        expect("ids/integers", self.integers_R, torch.int64, [rows])
        lengths_R = self.lengths_R.numpy()
        if rows and int(lengths_R.min()) < IS_KEY:
            raise ValueError(f"ids/lengths has values below {IS_KEY}")
        if rows and int(lengths_R.max()) > MAX_ID_BYTES:
            raise ValueError(
                f"an id has {lengths_R.max()} bytes; the longest may have {MAX_ID_BYTES}"
            )
        ends_R = _ends(lengths_R)
        expect("ids/utf8", self.utf8, torch.uint8, [int(ends_R[-1]) if rows else 0])
        object.__setattr__(self, "_ends_R", ends_R)

    @classmethod
    def from_list(cls, ids: Iterable[Id]) -> "RowIds":
        """Pack ids. Raises ValueError for one that is too long."""
        listed = list(ids)
        texts = [b"" if isinstance(one, int) else one.encode() for one in listed]
        is_integer = np.array([isinstance(one, int) for one in listed], bool)
        lengths = np.array([len(text) for text in texts], np.int64)
        if lengths.size and lengths.max() > MAX_ID_BYTES:
            raise ValueError(
                f"an id has {lengths.max()} bytes; the longest may have {MAX_ID_BYTES}"
            )
        integers = np.array([one if isinstance(one, int) else 0 for one in listed], np.int64)
        return cls(
            torch.from_numpy(np.where(is_integer, IS_KEY, lengths).astype(np.int16)),
            torch.from_numpy(np.frombuffer(b"".join(texts), np.uint8).copy()),
            torch.from_numpy(integers),
        )

    def checked(self) -> "RowIds":
        """These ids. Raises ValueError if one of them is no string: for what was read."""
        utf8 = self.utf8.numpy()
        try:
            utf8.tobytes().decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"ids/utf8 is no UTF-8: {error}") from None
        # The whole is text, and where an id ends none of its characters goes on: so each is.
        inside = self._ends[self._ends < len(utf8)]
        if (utf8[inside] & 0xC0 == 0x80).any():
            raise ValueError("ids/utf8 is no UTF-8: an id ends within a character")
        return self

    @classmethod
    def joined(cls, parts: "Sequence[RowIds]") -> "RowIds":
        """The ids of several one after another."""
        return cls(
            torch.cat([part.lengths_R for part in parts]),
            torch.cat([part.utf8 for part in parts]),
            torch.cat([part.integers_R for part in parts]),
        )

    def take(self, rows_N: Tensor) -> "RowIds":
        """The ids of these rows; they may repeat. Raises IndexError for a row that is not there."""
        lengths_N = self.lengths_R[rows_N]
        ends_N = _ends(lengths_N.numpy())
        utf8 = np.empty(int(ends_N[-1]) if len(ends_N) else 0, np.uint8)
        _gather(self.utf8.numpy(), self._ends, self.lengths_R.numpy(), rows_N.numpy(), utf8)
        return RowIds(lengths_N, torch.from_numpy(utf8), self.integers_R[rows_N])

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything by name, integers only where an id is one."""
        integers = self.integers_R[self.lengths_R == IS_KEY]
        return {"lengths": self.lengths_R, "utf8": self.utf8, "integers": integers}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "RowIds":
        """The inverse of `to_tensors`. Raises ValueError for ids that are not whole."""
        try:
            lengths_R, utf8, integers = (tensors[n] for n in ("lengths", "utf8", "integers"))
        except KeyError as error:
            raise ValueError(f"tensor {error} is missing") from None
        is_integer_R = lengths_R == IS_KEY
        expect("ids/integers", integers, torch.int64, [int(is_integer_R.sum())])
        integers_R = torch.zeros(lengths_R.shape, dtype=torch.int64)
        integers_R[is_integer_R] = integers
        return cls(lengths_R, utf8, integers_R).checked()

    @property
    def _ends(self) -> Longs:
        ends_R: Longs = self.__dict__["_ends_R"]
        return ends_R

    def __len__(self) -> int:
        return len(self.lengths_R)

    @overload
    def __getitem__(self, row: int) -> Id: ...
    @overload
    def __getitem__(self, row: slice) -> list[Id]: ...
    def __getitem__(self, row: int | slice) -> Id | list[Id]:
        """The id of a row, or those of several."""
        if isinstance(row, slice):
            return list(self.take(torch.from_numpy(np.arange(len(self))[row].copy())))
        size, end = int(self.lengths_R[row]), int(self._ends[row])
        if size == IS_KEY:
            return int(self.integers_R[row])
        return self.utf8[end - size : end].numpy().tobytes().decode()

    def __iter__(self) -> Iterator[Id]:
        text, first = self.utf8.numpy().tobytes(), 0
        rows = zip(self.lengths_R.tolist(), self.integers_R.tolist(), strict=True)
        for size, integer in rows:
            if size == IS_KEY:
                yield integer
            else:
                yield text[first : first + size].decode()
                first += size


def _ends(lengths_R: npt.NDArray[np.int16]) -> Longs:
    """Where the bytes of each row end."""
    return lengths_R.clip(min=0).cumsum(dtype=np.int64)


@njit(cache=True, nogil=True)
def _gather(utf8: Any, ends: Any, lengths: Any, rows: Any, out: Any) -> None:
    to = np.uint64(0)
    for row in rows:
        size = max(lengths[row], 0)
        first = np.uint64(ends[row] - size)
        for i in range(size):
            out[to] = utf8[first + np.uint64(i)]
            to += np.uint64(1)
