"""Expiry: a sweep over the rows in slices, each from where the last one stopped."""

import torch
from torch import Tensor

from kernels.rows import RowTable

_AT_ONCE = 32_768
"""Rows compared at once; torch would share more among threads."""


class Sweep:
    """Finds rows unseen for longer than a time-to-live, judged in event time.

    A slice looks at `budget_rows` rows, so that every row is looked at once in
    ceil(rows / budget_rows) slices: that many slices after `ttl` at the latest it is found.
    """

    def __init__(self, ttl_seconds: float | None) -> None:
        """None: there is nothing to find."""
        self._ttl_ms = None if ttl_seconds is None else round(ttl_seconds * 1000)
        self._cursor = 0

    def expired(self, rows: RowTable, watermark_ms: int, budget_rows: int) -> Tensor:
        """The rows of the next slice with watermark - last seen > ttl, in sweep order."""
        found, budget = [rows.column("last_seen_ms", 0, 0)], min(budget_rows, rows.end)
        while budget > 0 and self._ttl_ms is not None:
            end = min(self._cursor + min(budget, _AT_ONCE), rows.end)
            last_seen_ms = rows.column("last_seen_ms", self._cursor, end)
            found.append(
                (last_seen_ms < watermark_ms - self._ttl_ms).nonzero().squeeze(1) + self._cursor
            )
            budget -= end - self._cursor
            self._cursor = end % rows.end
        return torch.cat(found)

    def state(self) -> dict[str, Tensor]:
        """Where the sweep stands."""
        return {"cursor": torch.tensor(self._cursor)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Become what returned `state`."""
        self._cursor = int(state["cursor"])
