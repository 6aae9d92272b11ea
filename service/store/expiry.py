"""Expiry: a sweep over the rows in slices, each from where the last one stopped."""

import numpy as np
import torch
from torch import Tensor


class Sweep:
    """Finds rows unseen for longer than a time-to-live, judged in event time.

    A slice looks at `budget_rows` rows, so that every row is looked at once in
    ceil(rows / budget_rows) slices: that many slices after `ttl` at the latest it is found.
    """

    def __init__(self, ttl_seconds: float) -> None:
        self._ttl_ms = round(ttl_seconds * 1000)
        self.cursor = 0

    def expired(self, last_seen_ms_R: Tensor, watermark_ms: int, budget_rows: int) -> Tensor:
        """The rows of the next slice with watermark - last seen > ttl, in sweep order."""
        last_seen_ms = last_seen_ms_R.numpy()
        end, cutoff_ms = len(last_seen_ms), watermark_ms - self._ttl_ms
        found, budget = [], min(budget_rows, end)
        while budget > 0:
            piece = last_seen_ms[self.cursor : self.cursor + budget]
            found.append(np.flatnonzero(piece < cutoff_ms) + self.cursor)
            self.cursor = (self.cursor + len(piece)) % end
            budget -= len(piece)
        return torch.from_numpy(np.concatenate(found or [np.empty(0, np.int64)]))
