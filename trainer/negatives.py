"""The recent pool that negatives are drawn from, and how often each item is in a shared set.

The pool is the last W positives of the stream. What it says about an item is exact: its expected
occurrences in a set of the batch's positives and `draws` from the pool are its share of the pool
times the size of the set, which is what the logQ correction needs.
"""

import numpy as np
import torch
from torch import Tensor

from service.device import CPU
from service.histories.rings import Longs
from trainer.device import placed

UNSEEN = 0.5
"""Occurrences granted to an item that is not in the pool: its first positive is no miracle."""


class NegativePool:
    """The rows of the last `window` positives, oldest first."""

    def __init__(self, window: int, device: torch.device = CPU) -> None:
        self.window, self._device = window, device
        self._rows_W = torch.zeros(0, dtype=torch.int64, device=device)
        # The last row is nobody's: rows that were never pushed read it.
        self._times_R = torch.zeros(1, dtype=torch.int64, device=device)

    def __len__(self) -> int:
        return len(self._rows_W)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that grows."""
        return self._rows_W.nbytes + self._times_R.nbytes

    def draw(self, draws: int, seed: tuple[int, ...]) -> Tensor:
        """`draws` rows, uniformly with replacement; none while the pool is empty."""
        if not len(self._rows_W):
            return self._rows_W
        picks = np.random.default_rng(seed).integers(0, len(self._rows_W), draws)
        return self._rows_W[placed(picks, self._device)]

    def log_expected(self, rows_S: Tensor, set_size: int) -> Tensor:
        """log q [S]: expected occurrences of each row in a shared set of that size."""
        times_S = self._times_R[rows_S.clamp(max=len(self._times_R) - 1)].double()
        share_S = (times_S + UNSEEN) / (len(self._rows_W) + 1)
        return (share_S * set_size).log().float()

    def push(self, rows_N: Longs) -> None:
        """Add the positives of a batch; the oldest leave."""
        self._reserve(int(rows_N.max(initial=-1)) + 1)
        rows = torch.cat([self._rows_W, placed(rows_N, self._device)])
        left = rows[: max(0, len(rows) - self.window)]
        for one, count in ((rows[len(self._rows_W) :], 1), (left, -1)):
            self._times_R.index_add_(0, one, torch.full_like(one, count))
        self._rows_W = rows[len(left) :]

    def forget(self, rows_N: Longs) -> None:
        """Remove rows that were freed: their numbers will mean other items."""
        if len(rows_N):
            freed_N = placed(rows_N, self._device)
            self._rows_W = self._rows_W[~torch.isin(self._rows_W, freed_N)]
            self._times_R.index_fill_(0, freed_N.clamp(max=len(self._times_R) - 1), 0)

    def state(self) -> dict[str, Tensor]:
        """Everything that later results depend on, on the CPU."""
        return {"rows": self._rows_W.to("cpu", copy=True)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Become the pool that returned `state`."""
        self._rows_W, self._times_R = self._rows_W[:0], self._times_R.new_zeros(1)
        self.push(state["rows"].numpy())

    def _reserve(self, rows: int) -> None:
        if rows >= len(self._times_R):
            grown_R = self._times_R.new_zeros(max(rows + 1, 2 * len(self._times_R), 64))
            grown_R[: len(self._times_R)] = self._times_R
            self._times_R = grown_R
