"""Key index on a GPU: 256 shards by hash, each a growing table of its own; rows by arrival.

What the host must know of a batch, it reads from a few counters at once: one synchronisation for
each `lookup`, `insert`, `remove` and `key_at`, and one more for every time that an insert finds a
shard without a free slot. The rest is queued on the current stream; use one stream at a time.

A shard doubles at the end of the insert that filled it beyond its limit (if memory for it ends
there, the batch is in nevertheless); within a large batch it may fill up altogether, and the batch
lets it grow and goes on.

Time goes into waiting for memory: a sector of 32 bytes for each probe of a key, 1.5 probes at the
middle load. New keys cost another two passes over the batch and a prefix sum.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton
from torch import Tensor

from kernels.gpu import kernel_device, launch
from kernels.key_index import claims
from kernels.key_index.claims import ALL_WELL, BLOCK, COUNTERS, OPTIONS, SHARDS
from kernels.key_index.gpu_shards import GpuShards
from kernels.key_index.protocol import RESERVED_KEY, reserved_key_error, row_error
from kernels.slabs import Slabs

Counts = npt.NDArray[Any]

_USED, _LIVE = slice(0, SHARDS), slice(SHARDS, 2 * SHARDS)
_RESERVED, _FULL = claims.RESERVED.value, claims.FULL.value


class TritonIndex:
    """The shards, the key of every row in slabs, and a stack of free rows."""

    _shards: GpuShards
    _keys: Slabs
    _free: Slabs

    def __init__(self, device: str = "cuda") -> None:
        self._device = kernel_device(device)
        self._reset(np.zeros(SHARDS, np.int64))

    def lookup(self, keys_N: Tensor) -> Tensor:
        keys_N = self._int64s("keys", keys_N)
        rows_N = torch.empty_like(keys_N)
        self._on_batch(claims.find, keys_N, rows_N, rows_N, PLACES=False)
        self._refuse_reserved(int(self._counters[_RESERVED]))
        return rows_N

    def insert(self, keys_N: Tensor) -> tuple[Tensor, Tensor]:
        keys_N = self._int64s("keys", keys_N)
        self._keys.extend(self._rows_end + max(len(keys_N) - self._free_end, 0))
        places_N = torch.zeros_like(keys_N)
        counts = self._claim(keys_N, places_N)
        numbered = self._number(keys_N, places_N, int(counts[_LIVE].sum()) - len(self))
        self._keep_loads(counts)
        return numbered

    def remove(self, keys_N: Tensor) -> Tensor:
        keys_N = self._int64s("keys", keys_N)
        self._free.extend(self._free_end + min(len(keys_N), len(self)))
        rows_N, places_N = torch.empty_like(keys_N), torch.empty_like(keys_N)
        self._on_batch(claims.find, keys_N, rows_N, places_N, PLACES=True)
        self._on_batch(claims.drop, keys_N, places_N)
        counts = self._counters.cpu().numpy()
        self._refuse_reserved(int(counts[_RESERVED]))
        removed = len(self) - int(counts[_LIVE].sum())
        if removed:
            self._release(places_N, rows_N)
            self._free_end += removed
        return rows_N

    def key_at(self, rows_N: Tensor) -> Tensor:
        rows_N = self._int64s("rows", rows_N)
        outside_N = (rows_N < 0) | (rows_N >= self._rows_end)
        if outside_N.any():
            raise row_error(int(rows_N[outside_N][0]), self._rows_end)
        keys_N = torch.empty_like(rows_N)
        self._keys.read(rows_N, keys_N.unsqueeze(1))
        return keys_N

    def keys(self) -> Tensor:
        return self._keys.copy(0, self._rows_end).flatten()

    def free(self) -> Tensor:
        return self._free.copy(0, self._free_end).flatten()

    def __len__(self) -> int:
        return self._rows_end - self._free_end

    @property
    def rows_end(self) -> int:
        return self._rows_end

    @property
    def nbytes(self) -> int:
        parts = (self._shards, self._keys, self._free, self._counters)
        return sum(part.nbytes for part in parts)

    def state(self) -> dict[str, Tensor]:
        return {"keys": self.keys(), "free": self.free()}

    def load(self, state: dict[str, Tensor]) -> None:
        keys_R, free = (state[name].to(self._device) for name in ("keys", "free"))
        counters, n = self._no_counts(), len(keys_R)
        programs = triton.cdiv(n, BLOCK)
        launch(claims.count, programs, keys_R, n, counters, **OPTIONS)
        self._reset(counters[_LIVE].cpu().numpy())
        counters[_USED] = counters[_LIVE]
        launch(
            claims.place_all, programs, keys_R, n, self._shards.addresses, self._shards.masks,
            **OPTIONS,
        )  # fmt: skip
        self._counters, self._rows_end, self._free_end = counters, n, len(free)
        for slabs, rows in ((self._keys, keys_R), (self._free, free)):
            slabs.extend(len(rows))
            slabs.fill(rows.unsqueeze(1))

    def _reset(self, keys_S: npt.NDArray[Any]) -> None:
        """No keys, but room for so many in each shard."""
        nobody = torch.full((1,), RESERVED_KEY, device=self._device)
        self._keys, self._free = Slabs(nobody), Slabs(nobody)
        self._rows_end = self._free_end = 0
        self._counters = self._no_counts()
        self._shards = GpuShards(keys_S, self._device)

    def _no_counts(self) -> Tensor:
        counters = torch.zeros(COUNTERS, dtype=torch.int32, device=self._device)
        counters[_RESERVED] = ALL_WELL
        return counters

    def _claim(self, keys_N: Tensor, places_N: Tensor) -> Counts:
        """Claim places, growing what is full; the counters then. On an error nothing is left."""
        try:
            while True:
                self._on_batch(claims.claim, keys_N, places_N)
                counts: Counts = self._counters.cpu().numpy()
                self._refuse_reserved(int(counts[_RESERVED]))
                if not counts[_FULL]:
                    return counts
                self._counters[_FULL] = 0
                self._keep_loads(counts)
        except BaseException:
            self._on_batch(claims.withdraw, keys_N, places_N)
            raise

    def _number(self, keys_N: Tensor, places_N: Tensor, new: int) -> tuple[Tensor, Tensor]:
        """Rows of the keys claimed, and which positions made them; `new` of them did."""
        n, rows_N = len(keys_N), torch.empty_like(keys_N)
        is_new_N, ranks_N = self._first(places_N, claims.FIRST_NEW.value)
        launch(
            claims.number, triton.cdiv(n, BLOCK), keys_N, n, places_N, ranks_N,
            self._free.addresses, self._free_end, self._keys.addresses, self._rows_end, rows_N,
            **OPTIONS,
        )  # fmt: skip
        reused = min(new, self._free_end)
        self._free_end -= reused
        self._rows_end += new - reused
        return rows_N, is_new_N

    def _release(self, places_N: Tensor, rows_N: Tensor) -> None:
        """Free the rows of the keys dropped."""
        first_N, ranks_N = self._first(places_N, claims.FIRST_GONE.value)
        n = len(rows_N)
        launch(
            claims.release, triton.cdiv(n, BLOCK), places_N, n, ranks_N, first_N,
            self._free.addresses, self._free_end, self._keys.addresses, rows_N,
            **OPTIONS,
        )  # fmt: skip

    def _first(self, places_N: Tensor, mark: int) -> tuple[Tensor, Tensor]:
        """Which positions are the first of a key so marked, and how many are up to each."""
        n = len(places_N)
        first_N = torch.empty(n, dtype=torch.bool, device=self._device)
        launch(
            claims.mark_first, triton.cdiv(n, BLOCK), places_N, n, first_N,
            MARK=mark, **OPTIONS,
        )  # fmt: skip
        return first_N, torch.cumsum(first_N, 0, dtype=torch.int32)

    def _on_batch(self, kernel: Any, keys_N: Tensor, *by_position: Tensor, **options: Any) -> None:
        launch(
            kernel, triton.cdiv(len(keys_N), BLOCK), keys_N, len(keys_N), self._shards.addresses,
            self._shards.masks, self._counters, *by_position, **OPTIONS, **options,
        )  # fmt: skip

    def _keep_loads(self, counts: Counts) -> None:
        self._shards.keep_loads(counts[_USED], counts[_LIVE], self._counters)

    def _refuse_reserved(self, position: int) -> None:
        if position != ALL_WELL:
            self._counters[_RESERVED], self._counters[_FULL] = ALL_WELL, 0
            raise reserved_key_error(position)

    def _int64s(self, what: str, tensor_N: Tensor) -> Tensor:
        here = tensor_N.device == self._device
        if tensor_N.dtype != torch.int64 or tensor_N.dim() != 1 or not here:
            raise TypeError(
                f"{what} are {tensor_N.dtype} {list(tensor_N.shape)} on {tensor_N.device}; "
                f"pass a one-dimensional int64 tensor on {self._device}"
            )
        return tensor_N.contiguous()
