"""Eviction: the least important rows leave when new ids need room and there is none."""

import torch
from torch import Tensor

from kernels.rows import NEVER_MS, RowTable
from service.store.clock import Clock
from service.store.draws import below

SAMPLES = 4096
"""Rows that decide what is unimportant."""
_ONE_IN = 16
"""The least important of so many leave."""
_LEAST_SHARE = 128
"""One of so many live rows leaves at least, so that not every batch must evict."""
_AT_ONCE = 32_768
_READ = ("last_seen_ms", "admitted_ms", "weight", "gradient_norm")

Columns = dict[str, Tensor]


class Evictor:
    """Chooses rows by importance, decayed count x gradient norm; rows in grace are not touched.

    `threshold`, the importance that a sixteenth of 4,096 random rows do not exceed, stands for the
    order of all rows, which nobody could afford to keep.
    """

    def __init__(self, grace_seconds: float, seed: int) -> None:
        self._grace_ms, self._seed = round(grace_seconds * 1000), seed
        self._cursor, self._evictions = 0, 0

    def victims(
        self, rows: RowTable, clock: Clock, needed: int, live: int, spared_N: Tensor
    ) -> Tensor:
        """Rows to free, in the order of a scan from the cursor: `needed` of them or, if more, one
        of 128 live ones; fewer if no more are at or below the threshold. `spared_N` stay."""
        threshold = self._threshold(rows, clock, spared_N.device)
        self._evictions += 1
        wanted, scanned = max(needed, live // _LEAST_SHARE), 0
        found, spared_U = [spared_N[:0]], spared_N.unique()
        while threshold is not None and wanted > 0 and scanned < rows.end:
            end = min(self._cursor + min(rows.end - scanned, _AT_ONCE), rows.end)
            columns = {name: rows.column(name, self._cursor, end) for name in _READ}
            unimportant = self._importance(columns, clock) <= threshold
            chosen = (self._may_leave(columns, clock) & unimportant).nonzero().squeeze(1)
            chosen += self._cursor
            chosen = chosen[~_among(spared_U, chosen)][:wanted]
            wanted -= len(chosen)
            if wanted == 0:
                end = int(chosen[-1]) + 1
            scanned += end - self._cursor
            self._cursor = end % rows.end
            found.append(chosen)
        return torch.cat(found)

    def state(self) -> Columns:
        """Where the scan stands, and how often it was asked."""
        return {
            "evict_cursor": torch.tensor(self._cursor),
            "evictions": torch.tensor(self._evictions),
        }

    def load(self, state: Columns) -> None:
        """Become what returned `state`."""
        self._cursor, self._evictions = int(state["evict_cursor"]), int(state["evictions"])

    def _threshold(self, rows: RowTable, clock: Clock, device: torch.device) -> float | None:
        """None if no sampled row may leave."""
        if rows.end <= SAMPLES:
            sampled = torch.arange(rows.end, device=device)
        else:
            sampled = below(rows.end, SAMPLES, self._seed, self._evictions, device=device)
        columns = rows.take(sampled, _READ)
        importance = self._importance(columns, clock)[self._may_leave(columns, clock)].sort().values
        return float(importance[(len(importance) - 1) // _ONE_IN]) if len(importance) else None

    def _may_leave(self, columns: Columns, clock: Clock) -> Tensor:
        """Rows of ids (so neither the unknown row nor free ones) that are out of grace."""
        held = columns["last_seen_ms"] != NEVER_MS
        return held & (columns["admitted_ms"] < clock.now_ms - self._grace_ms)

    @staticmethod
    def _importance(columns: Columns, clock: Clock) -> Tensor:
        counts = clock.decay.count(columns["weight"], clock.now_ms)
        return counts * columns["gradient_norm"]


def _among(sorted_U: Tensor, rows_M: Tensor) -> Tensor:
    place_M = torch.searchsorted(sorted_U, rows_M).clamp_(max=len(sorted_U) - 1)
    return sorted_U[place_M] == rows_M
