"""Room under the budget: which of the ids that earned a row get it, and who leaves for them."""

from collections import Counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.store.budget import Budget, row_bytes
from service.store.clock import Clock
from service.store.eviction import Evictor
from service.store.occurrences import of_first_keys
from service.store.rows import KeyedRows, Removed

if TYPE_CHECKING:
    from service.store.settings import SlotSettings

_REASONS = ("full", "spared")


class Room:
    """Free rows, rows that the budget still allows, and rows that can be had by eviction."""

    def __init__(
        self, slot: "SlotSettings", seed: int, rows: KeyedRows, clock: Clock, budget: Budget
    ) -> None:
        self._rows, self._clock, self._budget = rows, clock, budget
        self._row_bytes = row_bytes(slot)
        self._evictor = Evictor(slot.grace_seconds, seed)
        self.refused: Counter[str] = Counter()
        """Occurrences by reason: `full` (when_full is refuse), `spared` (it is evict, and too few
        rows could be taken)."""
        self.evicted = 0

    def place(self, keys_N: Tensor, rows_N: Tensor, earned_E: Tensor) -> tuple[Tensor, Removed]:
        """Those of a batch's earned occurrences that find room, the first ids first, and who has
        left to make it: none of the rows that the batch reads."""
        evicted = self._rows.nobody
        if len(earned_E) <= self._left():
            return earned_E, evicted
        needed = len(keys_N[earned_E].unique())
        evicts = self._budget.when_full == "evict"
        if evicts and needed > self._left():
            evicted = self._evict(needed - int(self._left()), rows_N)
        if needed <= self._left():
            return earned_E, evicted
        fits_E = of_first_keys(keys_N[earned_E], int(self._left()))
        self.refused["spared" if evicts else "full"] += int((~fits_E).sum())
        return earned_E[fits_E], evicted

    def state(self) -> dict[str, Tensor]:
        """Counts, and what the next eviction depends on."""
        counts = {f"refused.{reason}": self.refused[reason] for reason in _REASONS}
        counts["evicted"] = self.evicted
        return self._evictor.state() | {name: torch.tensor(n) for name, n in counts.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Become what returned `state`."""
        self._evictor.load(state)
        self.evicted = int(state["evicted"])
        for reason in _REASONS:
            self.refused[reason] = int(state[f"refused.{reason}"])

    def _left(self) -> float:
        """Rows that new ids can have without anybody's leaving."""
        return self._rows.free + self._budget.room(self._row_bytes)

    def _evict(self, needed: int, rows_N: Tensor) -> Removed:
        rows = self._rows
        victims_M = self._evictor.victims(rows.table, self._clock, needed, len(rows), rows_N)
        self.evicted += len(victims_M)
        return rows.release(rows.keys_of(victims_M))
