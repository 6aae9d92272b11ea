"""Key index on CPU: 256 shards by hash, each a growing table of its own; rows by arrival.

Shard s grows when it is 0.60 + 0.25 s / 255 full. Shards fill evenly, so that staggered limits let
a few of them grow at a time, each rehashing only its own keys; nothing stored by row ever moves.
Shards share nothing but the row numbers: threads that own disjoint groups of shards can probe and
shift at the same time and number the new rows in one pass afterwards.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.key_index import probing
from kernels.key_index.probing import EMPTY, FREE, FULL_SHARD, ROWS_END, SHARDS
from kernels.key_index.protocol import key_array, reserved_key_error

Int64s = npt.NDArray[np.int64]

_FIRST_SLOTS = 8
_LOW_LOAD, _HIGH_LOAD = 0.60, 0.85


class NumbaIndex:
    """The shards, the key of every row, and a stack of free rows. Arrays double when full."""

    _shards: list[Int64s]
    _addresses: npt.NDArray[np.uint64]
    _masks: npt.NDArray[np.uint64]
    _room: Int64s
    _keys: Int64s
    _free: Int64s
    _ends: Int64s

    def __init__(self) -> None:
        self._reset()

    def lookup(self, keys_N: Tensor) -> Tensor:
        keys = key_array(keys_N)
        rows = np.empty(len(keys), np.int64)
        self._refuse_reserved(probing.lookup(self._addresses, self._masks, keys, rows), keys)
        return torch.from_numpy(rows)

    def insert(self, keys_N: Tensor) -> tuple[Tensor, Tensor]:
        keys = key_array(keys_N)
        self._refuse_reserved(probing.first_reserved(keys), keys)
        rows, is_new = np.empty(len(keys), np.int64), np.empty(len(keys), np.bool_)
        done = 0
        while (done := self._insert_from(done, keys, rows, is_new)) < len(keys):
            self._make_room()
        return torch.from_numpy(rows), torch.from_numpy(is_new)

    def remove(self, keys_N: Tensor) -> Tensor:
        keys = key_array(keys_N)
        self._refuse_reserved(probing.first_reserved(keys), keys)
        self._free = _grown(self._free, int(self._ends[FREE]) + len(keys))
        rows = np.empty(len(keys), np.int64)
        probing.remove(
            self._addresses, self._masks, self._room, self._keys, self._free, self._ends, keys, rows
        )
        return torch.from_numpy(rows)

    def keys(self) -> Tensor:
        return torch.from_numpy(self._keys[: self.rows_end])

    def __len__(self) -> int:
        return int(self._ends[ROWS_END] - self._ends[FREE])

    @property
    def rows_end(self) -> int:
        return int(self._ends[ROWS_END])

    @property
    def nbytes(self) -> int:
        by_shard = (self._addresses, self._masks, self._room, self._ends)
        return sum(array.nbytes for array in (*self._shards, *by_shard, self._keys, self._free))

    def state(self) -> dict[str, Tensor]:
        free = torch.from_numpy(self._free[: self._ends[FREE]])
        return {"keys": self.keys().clone(), "free": free.clone()}

    def load(self, state: dict[str, Tensor]) -> None:
        self._reset()
        self._keys, self._free = state["keys"].numpy().copy(), state["free"].numpy().copy()
        self._ends[:] = len(self._keys), len(self._free), 0
        done = 0
        while (done := self._place_from(done)) < len(self._keys):
            self._grow_shard(int(self._ends[FULL_SHARD]))

    def _reset(self) -> None:
        self._shards = [_empty_shard(_FIRST_SLOTS) for _ in range(SHARDS)]
        self._addresses = np.array([shard.ctypes.data for shard in self._shards], np.uint64)
        self._masks = np.full(SHARDS, _FIRST_SLOTS - 1, np.uint64)
        self._room = np.array([_most_keys(s, _FIRST_SLOTS) for s in range(SHARDS)], np.int64)
        self._keys, self._free = np.empty(64, np.int64), np.empty(0, np.int64)
        self._ends = np.zeros(3, np.int64)

    def _insert_from(self, start: int, keys: Int64s, rows: Int64s, is_new: Any) -> int:
        index = (self._addresses, self._masks, self._room, self._keys, self._free, self._ends)
        return int(probing.insert(*index, keys, start, rows, is_new))

    def _place_from(self, start: int) -> int:
        index = (self._addresses, self._masks, self._room, self._ends)
        return int(probing.place(*index, self._keys, start))

    def _make_room(self) -> None:
        if self.rows_end == len(self._keys) and not self._ends[FREE]:
            self._keys = _grown(self._keys, self.rows_end + 1)
        else:
            self._grow_shard(int(self._ends[FULL_SHARD]))

    def _grow_shard(self, shard: int) -> None:
        old = self._shards[shard]
        slots = len(old)  # pairs: twice the old number of slots
        new = _empty_shard(slots)
        probing.rehash(old, new)
        self._shards[shard] = new
        self._addresses[shard] = new.ctypes.data
        self._masks[shard] = slots - 1
        self._room[shard] += _most_keys(shard, slots) - _most_keys(shard, slots // 2)

    @staticmethod
    def _refuse_reserved(position: int, keys: Int64s) -> None:
        if position < len(keys):
            raise reserved_key_error(position)


def _empty_shard(slots: int) -> Int64s:
    return np.full(2 * slots, EMPTY, np.int64)


def _most_keys(shard: int, slots: int) -> int:
    return int(slots * (_LOW_LOAD + (_HIGH_LOAD - _LOW_LOAD) * shard / (SHARDS - 1)))


def _grown(array: Int64s, needed: int) -> Int64s:
    """The array itself if it has the length, else a copy with at least double the length."""
    if needed <= len(array):
        return array
    grown = np.empty(max(needed, 2 * len(array)), np.int64)
    grown[: len(array)] = array
    return grown
