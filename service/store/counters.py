"""Occurrences of ids that have no row: a key index, and a count by its rows."""

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.key_index import RESERVED_KEY, KeyIndex
from service.store.occurrences import count_up


class Counters:
    """One generation of waiting ids."""

    def __init__(self, index: KeyIndex, device: torch.device) -> None:
        self._index = index
        # Never empty: for a key that is absent, row 0 is read.
        self._counts_R = torch.zeros(1, dtype=torch.int32, device=device)

    def has(self, keys_A: Tensor) -> Tensor:
        """Whether each key has a count here (bool [A])."""
        return self._index.lookup(keys_A) >= 0

    def count(self, keys_A: Tensor, earlier: Callable[[Tensor], Tensor]) -> Tensor:
        """Add each occurrence; the count of its id with it, int64 [A]. Counts of ids that are new
        here start from what `earlier` says of their keys."""
        rows_A, is_new_A = self._index.insert(keys_A)
        self._reserve(self._index.rows_end)
        self._counts_R[rows_A[is_new_A]] = earlier(keys_A[is_new_A])
        return count_up(self._counts_R, rows_A)

    def get(self, keys_M: Tensor) -> Tensor:
        """The count of each key, int32 [M]; 0 where it has none."""
        rows_M = self._index.lookup(keys_M)
        return torch.where(rows_M >= 0, self._counts_R[rows_M.clamp(min=0)], 0)

    def put(self, keys_M: Tensor, counts_M: Tensor) -> None:
        """Set the counts (int32) of distinct keys, whatever device they come from."""
        device = self._counts_R.device
        rows_M, _ = self._index.insert(keys_M.to(device))
        self._reserve(self._index.rows_end)
        self._counts_R[rows_M] = counts_M.to(device)

    def pop(self, keys_M: Tensor) -> Tensor:
        """Drop the counts of distinct keys; what they were (int32 [M]), 0 where there was none."""
        if not len(self):
            return torch.zeros(len(keys_M), dtype=torch.int32, device=keys_M.device)
        rows_M = self._index.remove(keys_M)
        return torch.where(rows_M >= 0, self._counts_R[rows_M.clamp(min=0)], 0)

    def keys(self) -> Tensor:
        """Keys that have a count."""
        keys_R = self._index.keys()
        return keys_R[keys_R != RESERVED_KEY]

    def __len__(self) -> int:
        return len(self._index)

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return self._index.nbytes + self._counts_R.nbytes

    def state(self) -> dict[str, Tensor]:
        """Keys in ascending order and their counts: the same however batches were cut."""
        keys_W, _ = self.keys().sort()
        return {"keys": keys_W.cpu(), "counts": self.get(keys_W).cpu()}

    def _reserve(self, rows: int) -> None:
        if rows > len(self._counts_R):
            grown_R = self._counts_R.new_zeros(max(rows, 2 * len(self._counts_R)))
            grown_R[: len(self._counts_R)] = self._counts_R
            self._counts_R = grown_R
