"""Key index on CPU: 256 shards by hash, each a growing table of its own; rows by arrival.

Shard s grows when it is 0.60 + 0.25 s / 255 full. Shards fill evenly, so that staggered limits let
a few of them grow at a time, each rehashing only its own keys; nothing stored by row ever moves.
Lookups share a batch among the crew by position; one thread inserts and removes.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.crew import Crew
from kernels.key_index import probing
from kernels.key_index.protocol import key_array, reserved_key_error, row_array, row_error
from kernels.key_index.shards import SHARDS, Shards
from kernels.reserved import Reserved

Int64s = npt.NDArray[np.int64]


class NumbaIndex:
    """The shards, the key of every row, and a stack of free rows."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._shards = Shards(np.zeros(SHARDS, np.int64))
        self._keys, self._free = Reserved(np.int64), Reserved(np.int64)
        self._free_end = 0

    def lookup(self, keys_N: Tensor) -> Tensor:
        keys = key_array(keys_N)
        rows = np.empty(len(keys), np.int64)
        table = (self._shards.words, self._shards.slots_S)
        _refuse_reserved(min(self._crew.run(len(keys), probing.lookup, *table, keys, rows)), keys)
        return torch.from_numpy(rows)

    def insert(self, keys_N: Tensor) -> tuple[Tensor, Tensor]:
        keys = key_array(keys_N)
        _refuse_reserved(probing.first_reserved(keys), keys)
        rows, is_new = np.empty(len(keys), np.int64), np.empty(len(keys), np.bool_)
        keys_R = self._keys.ahead(self.rows_end + len(keys))
        free, free_end = self._free.flat, self._free_end
        done, rows_end, self._free_end, grown = probing.insert(
            *self._shards.all, keys_R, self.rows_end, free, free_end, keys, rows, is_new
        )
        self._keys.extend(rows_end)
        if grown:
            self._shards.let_go()
        if done < len(keys):
            raise MemoryError(f"no addresses are left for the shard of key {keys[done]}")
        return torch.from_numpy(rows), torch.from_numpy(is_new)

    def remove(self, keys_N: Tensor) -> Tensor:
        keys = key_array(keys_N)
        _refuse_reserved(probing.first_reserved(keys), keys)
        rows = np.empty(len(keys), np.int64)
        free = self._free.ahead(self._free_end + len(keys))
        self._free_end = probing.remove(
            *self._shards.all, self._keys.flat, free, self._free_end, keys, rows
        )
        self._free.extend(self._free_end)
        return torch.from_numpy(rows)

    def key_at(self, rows_N: Tensor) -> Tensor:
        rows = row_array(rows_N)
        keys = np.empty(len(rows), np.int64)
        done = probing.key_at(self._keys.flat, rows, keys)
        if done < len(rows):
            raise row_error(int(rows[done]), self.rows_end)
        return torch.from_numpy(keys)

    def keys(self) -> Tensor:
        return torch.from_numpy(self._keys.flat)

    def free(self) -> Tensor:
        return torch.from_numpy(self._free.flat[: self._free_end])

    def __len__(self) -> int:
        return self.rows_end - self._free_end

    @property
    def rows_end(self) -> int:
        return self._keys.length

    @property
    def nbytes(self) -> int:
        return self._shards.nbytes + self._keys.nbytes + self._free.nbytes

    def state(self) -> dict[str, Tensor]:
        return {"keys": self.keys().clone(), "free": self.free().clone()}

    def load(self, state: dict[str, Tensor]) -> None:
        self._keys, self._free = _reserved(state["keys"]), _reserved(state["free"])
        self._free_end = self._free.length
        self._shards = Shards(probing.count(self._keys.flat))
        probing.place(*self._shards.all, self._keys.flat)


def _reserved(numbers: Tensor) -> Reserved:
    memory = Reserved(np.int64)
    memory.extend(len(numbers))[:] = numbers.numpy(force=True)
    return memory


def _refuse_reserved(position: int, keys: Int64s) -> None:
    if position < len(keys):
        raise reserved_key_error(position)
