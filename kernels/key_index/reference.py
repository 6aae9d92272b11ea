"""Key index as a plain dict: the specification."""

import sys

import numpy as np
import torch
from torch import Tensor

from kernels.key_index.protocol import (
    RESERVED_KEY,
    key_array,
    reserved_key_error,
    row_array,
    row_error,
)


class ReferenceIndex:
    """A dict of rows, a list of keys by row and a stack of free rows."""

    def __init__(self) -> None:
        self._row_of: dict[int, int] = {}
        self._key_of: list[int] = []
        self._free: list[int] = []

    def lookup(self, keys_N: Tensor) -> Tensor:
        return torch.tensor(
            [self._row_of.get(key, -1) for key in _usable(keys_N)], dtype=torch.int64
        )

    def insert(self, keys_N: Tensor) -> tuple[Tensor, Tensor]:
        rows, is_new = [], []
        for key in _usable(keys_N):
            is_new.append(key not in self._row_of)
            rows.append(self._row_of[key] if key in self._row_of else self._make(key))
        return torch.tensor(rows, dtype=torch.int64), torch.tensor(is_new, dtype=torch.bool)

    def remove(self, keys_N: Tensor) -> Tensor:
        rows = [self._row_of.pop(key, -1) for key in _usable(keys_N)]
        # A key that stands twice in the batch is absent the second time.
        for row in rows:
            if row >= 0:
                self._key_of[row] = RESERVED_KEY
                self._free.append(row)
        return torch.tensor(rows, dtype=torch.int64)

    def key_at(self, rows_N: Tensor) -> Tensor:
        rows: list[int] = row_array(rows_N).tolist()
        for row in rows:
            if not 0 <= row < self.rows_end:
                raise row_error(row, self.rows_end)
        return torch.tensor([self._key_of[row] for row in rows], dtype=torch.int64)

    def keys(self) -> Tensor:
        return torch.tensor(self._key_of, dtype=torch.int64)

    def free(self) -> Tensor:
        return torch.tensor(self._free, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._row_of)

    @property
    def rows_end(self) -> int:
        return len(self._key_of)

    @property
    def nbytes(self) -> int:
        containers = (self._row_of, self._key_of, self._free)
        return sum(map(sys.getsizeof, containers)) + 2 * sys.getsizeof(2**62) * len(self)

    def state(self) -> dict[str, Tensor]:
        return {"keys": self.keys(), "free": self.free()}

    def load(self, state: dict[str, Tensor]) -> None:
        self._key_of = state["keys"].tolist()
        self._free = state["free"].tolist()
        self._row_of = {key: row for row, key in enumerate(self._key_of) if key != RESERVED_KEY}

    def _make(self, key: int) -> int:
        if self._free:
            row = self._free.pop()
            self._key_of[row] = key
        else:
            row = len(self._key_of)
            self._key_of.append(key)
        self._row_of[key] = row
        return row


def _usable(keys_N: Tensor) -> list[int]:
    keys = key_array(keys_N)
    reserved = np.flatnonzero(keys == RESERVED_KEY)
    if reserved.size:
        raise reserved_key_error(int(reserved[0]))
    listed: list[int] = keys.tolist()
    return listed
