"""What the store keeps by row: vector, optimizer state, last use and occurrences."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.row_init import initial_rows
from kernels.row_update import adagrad, gather, touch

Int64s = npt.NDArray[np.int64]

NEVER_EXPIRES_MS = 2**63 - 1
"""Last use of a row that no sweep may take: the unknown row and free rows."""

_FIRST_CAPACITY = 1024
_EMPTY = {"vectors": 0.0, "squares": 0.0, "last_seen_ms": NEVER_EXPIRES_MS, "counts": 0.0}


class Rows:
    """Growing tensors with one entry per row, doubled when full: D * 4 + 16 bytes a row.

    `end` rows are in use or free; beyond it lies capacity. Tensors handed out are views of the
    present ones and go stale when rows are added. Rows are written through numpy: torch would
    share such light work among threads, and wait for them when other work holds the cores.
    """

    def __init__(self, width: int, seed: int, init_std: float, backend: str) -> None:
        self.width, self._seed, self._init_std, self._backend = width, seed, init_std, backend
        self.end = 0
        self._by_row = {
            "vectors": torch.empty(0, width),
            "squares": torch.empty(0),
            "last_seen_ms": torch.empty(0, dtype=torch.int64),
            "counts": torch.empty(0),
        }

    @property
    def vectors_RD(self) -> Tensor:
        return self._by_row["vectors"][: self.end]

    @property
    def squares_R(self) -> Tensor:
        """Row-wise Adagrad's accumulators."""
        return self._by_row["squares"][: self.end]

    @property
    def last_seen_ms_R(self) -> Tensor:
        return self._by_row["last_seen_ms"][: self.end]

    @property
    def counts_R(self) -> Tensor:
        """Occurrences since admission and those that earned it, exact up to 2^24."""
        return self._by_row["counts"][: self.end]

    @property
    def nbytes(self) -> int:
        """Bytes allocated, unused capacity included."""
        return sum(tensor.nbytes for tensor in self._by_row.values())

    def extend(self, end: int) -> None:
        """Make rows up to `end` exist, empty."""
        capacity = len(self._by_row["counts"])
        if end > capacity:
            self._reserve(max(end, 2 * capacity, _FIRST_CAPACITY))
        for name, empty in _EMPTY.items():
            self._by_row[name].numpy()[self.end : end] = empty
        self.end = max(self.end, end)

    def start(self, rows_M: Int64s, keys_M: Tensor, counts: float, at_ms: int) -> None:
        """Make rows those of ids never seen: their vector follows from seed and key alone."""
        rows_MD = initial_rows(keys_M, self.width, self._seed, self._init_std, self._backend)
        values = {"vectors": rows_MD.numpy(), "squares": 0, "counts": counts, "last_seen_ms": at_ms}
        for name, value in values.items():
            self._by_row[name].numpy()[rows_M] = value

    def clear(self, rows_M: Int64s) -> None:
        """Forget everything that the rows held."""
        for name, empty in _EMPTY.items():
            self._by_row[name].numpy()[rows_M] = empty

    def touch(self, rows_N: Tensor, at_ms_N: Tensor) -> None:
        """Count one occurrence of each row (not the unknown one) at its time."""
        touch(self.last_seen_ms_R, self.counts_R, rows_N, at_ms_N, self._backend)

    def gather(self, rows_N: Tensor) -> Tensor:
        """Copies of the rows' vectors, [N, D]."""
        return gather(self.vectors_RD, rows_N, self._backend)

    def update(self, rows_N: Tensor, grads_ND: Tensor, learning_rate: float) -> None:
        """One row-wise Adagrad step for each distinct row."""
        adagrad(
            self.vectors_RD, self.squares_R, rows_N, grads_ND, learning_rate, backend=self._backend
        )

    def state(self) -> dict[str, Tensor]:
        """Copies of all rows."""
        return {name: tensor[: self.end].clone() for name, tensor in self._by_row.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Become the rows that returned `state`."""
        self._by_row = {name: state[name].clone() for name in self._by_row}
        self.end = len(self._by_row["counts"])

    def _reserve(self, capacity: int) -> None:
        for name, old in self._by_row.items():
            new = old.new_empty(capacity, *old.shape[1:])
            new[: self.end] = old[: self.end]
            self._by_row[name] = new
