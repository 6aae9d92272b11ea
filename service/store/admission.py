"""Admission: an id gets a row only at its `min_count`-th occurrence. Exact."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from kernels.key_index import RESERVED_KEY, key_index


class Admission:
    """Occurrences of ids that have no row yet, in a key index of their own."""

    def __init__(self, min_count: int, backend: str) -> None:
        self._min_count, self._backend = min_count, backend
        self._index = key_index(backend)
        self._counts = np.zeros(0, np.int32)

    def earned(self, keys_N: Tensor) -> npt.NDArray[np.bool_]:
        """Count each occurrence; True from the one that reaches `min_count` on (bool [N])."""
        rows_N, _ = self._index.insert(keys_N)
        self._reserve(self._index.rows_end)
        nth_N = np.empty(len(rows_N), np.int32)
        _count(self._counts, rows_N.numpy(), nth_N)
        return nth_N >= self._min_count

    def forget(self, keys_N: Tensor) -> None:
        """Drop the counts of ids that got their row."""
        rows_N = self._index.remove(keys_N)
        self._counts[rows_N[rows_N >= 0].numpy()] = 0

    def __len__(self) -> int:
        """Ids that wait."""
        return len(self._index)

    @property
    def nbytes(self) -> int:
        """Bytes allocated, unused capacity included."""
        return self._index.nbytes + self._counts.nbytes

    def state(self) -> dict[str, Tensor]:
        """Waiting keys in ascending order and their counts: the same however batches were cut."""
        keys_R = self._index.keys()
        keys_W, order = keys_R[keys_R != RESERVED_KEY].sort()
        counts_R = torch.from_numpy(self._counts[: len(keys_R)])
        return {"keys": keys_W, "counts": counts_R[keys_R != RESERVED_KEY][order]}

    def load(self, state: dict[str, Tensor]) -> None:
        """Become the admission that returned `state`."""
        self._index = key_index(self._backend)
        self._index.insert(state["keys"])
        self._counts = state["counts"].numpy().copy()

    def _reserve(self, rows: int) -> None:
        if rows > len(self._counts):
            grown = np.zeros(max(rows, 2 * len(self._counts)), np.int32)
            grown[: len(self._counts)] = self._counts
            self._counts = grown


@njit(cache=True, nogil=True)
def _count(counts: Any, rows: Any, nth: Any) -> None:
    for i in range(len(rows)):
        counts[rows[i]] += 1
        nth[i] = counts[rows[i]]
