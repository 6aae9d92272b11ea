"""Where the shards of a GPU key index lie, and when they must move: a tensor for each."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton
from torch import Tensor

from kernels.gpu import launch
from kernels.key_index import claims
from kernels.key_index.claims import BLOCK, OPTIONS
from kernels.key_index.shards import most_keys

Counts = npt.NDArray[Any]

FIRST_SLOTS = 64


class GpuShards:
    """Memory of all shards; `addresses` and `masks` (slots - 1) by shard are what kernels take.

    A shard doubles when it holds more keys than `most_keys` allows, as on the CPU, and is rebuilt
    at its size when slots of absent keys fill a quarter of what lies beyond that limit.
    """

    def __init__(self, keys_S: Counts, device: torch.device) -> None:
        """Free shards with room for so many keys each."""
        self._device = device
        self._free_pair = self._numbers([claims.EMPTY.value, claims.NONE.value])
        self._slots_S = np.array([_slots_for(s, keys) for s, keys in enumerate(keys_S.tolist())])
        self._shards = [self._free_pair.repeat(slots) for slots in self._slots_S.tolist()]
        self._tell_kernels()

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(tensor.nbytes for tensor in (*self._shards, self.addresses, self.masks))

    def keep_loads(self, used_S: Counts, live_S: Counts, counters: Tensor) -> None:
        """Rebuild the shards that hold too many keys or too many absent ones, of slots used and
        keys live in each; `counters` counts the used ones anew."""
        shards = np.flatnonzero((live_S > self._most_live_S) | (used_S > self._most_used_S))
        if not len(shards):
            return
        old = [(shard, self._shards[shard], self._slots_S[shard]) for shard in shards.tolist()]
        slots = [_slots_for(shard, int(live_S[shard]), int(n)) for shard, _, n in old]
        new = [self._free_pair.repeat(n) for n in slots]
        moves = self._numbers([[shard, pairs.data_ptr(), int(n)] for shard, pairs, n in old])
        for (shard, _, _), pairs, n in zip(old, new, slots, strict=True):
            self._shards[shard], self._slots_S[shard] = pairs, n
        self._tell_kernels()
        counters[moves[:, 0] + claims.USED.value] = 0
        tiles = triton.cdiv(max(int(n) for _, _, n in old), BLOCK)
        launch(
            claims.move, (tiles, len(old)), moves, self.addresses, self.masks, counters,
            **OPTIONS,
        )  # fmt: skip

    def _tell_kernels(self) -> None:
        slots = self._slots_S.tolist()
        self.addresses = self._numbers([shard.data_ptr() for shard in self._shards])
        self.masks = self._numbers([n - 1 for n in slots])
        self._most_live_S = np.array([most_keys(shard, n) for shard, n in enumerate(slots)])
        self._most_used_S = self._most_live_S + (self._slots_S - self._most_live_S) // 4

    def _numbers(self, numbers: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._device)


def _slots_for(shard: int, keys: int, slots: int = FIRST_SLOTS) -> int:
    while most_keys(shard, slots) < keys:
        slots *= 2
    return slots
