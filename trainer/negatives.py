"""The recent pool that negatives are drawn from, and how often each item is in a shared set.

The pool is the last W positives of the stream. What it says about an item is exact: its expected
occurrences in a set of the batch's positives and `draws` from the pool are its share of the pool
times the size of the set, which is what the logQ correction needs.
"""

import numpy as np
import torch
from torch import Tensor

from service.histories.rings import Longs

UNSEEN = 0.5
"""Occurrences granted to an item that is not in the pool: its first positive is no miracle."""


class NegativePool:
    """The rows of the last `window` positives, oldest first."""

    def __init__(self, window: int) -> None:
        self.window = window
        self._rows_W = np.zeros(0, np.int64)
        self._times_R = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._rows_W)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that grows."""
        return self._rows_W.nbytes + self._times_R.nbytes

    def draw(self, draws: int, seed: tuple[int, ...]) -> Longs:
        """`draws` rows, uniformly with replacement; none while the pool is empty."""
        if not len(self._rows_W):
            return self._rows_W
        picks = np.random.default_rng(seed).integers(0, len(self._rows_W), draws)
        rows: Longs = self._rows_W[picks]
        return rows

    def log_expected(self, rows_S: Longs, set_size: int) -> Tensor:
        """log q [S]: expected occurrences of each row in a shared set of that size."""
        self._reserve(int(rows_S.max(initial=-1)) + 1)
        share_S = (self._times_R[rows_S] + UNSEEN) / (len(self._rows_W) + 1)
        return torch.from_numpy(np.log(share_S * set_size)).float()

    def push(self, rows_N: Longs) -> None:
        """Add the positives of a batch; the oldest leave."""
        self._reserve(int(rows_N.max(initial=-1)) + 1)
        np.add.at(self._times_R, rows_N, 1)
        rows = np.concatenate([self._rows_W, rows_N])
        left = rows[: max(0, len(rows) - self.window)]
        np.subtract.at(self._times_R, left, 1)
        self._rows_W = rows[len(left) :]

    def forget(self, rows_N: Longs) -> None:
        """Remove rows that were freed: their numbers will mean other items."""
        if len(rows_N):
            self._rows_W = self._rows_W[~np.isin(self._rows_W, rows_N)]
            self._times_R[rows_N[rows_N < len(self._times_R)]] = 0

    def state(self) -> dict[str, Tensor]:
        """Everything that later results depend on."""
        return {"rows": torch.from_numpy(self._rows_W.copy())}

    def load(self, state: dict[str, Tensor]) -> None:
        """Become the pool that returned `state`."""
        self._rows_W = np.zeros(0, np.int64)
        self._times_R = np.zeros(0, np.int64)
        self.push(state["rows"].numpy())

    def _reserve(self, rows: int) -> None:
        if rows > len(self._times_R):
            grown = np.zeros(max(rows, 2 * len(self._times_R), 64), np.int64)
            grown[: len(self._times_R)] = self._times_R
            self._times_R = grown
