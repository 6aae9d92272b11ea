"""Admission: which occurrences of ids without a row earn one."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from service.store.counters import Counters
from service.store.draws import mixed, word
from service.store.occurrences import since_first
from service.store.waiting import Waiting

if TYPE_CHECKING:
    from service.store.settings import SlotSettings


class Admission:
    """By count (`min_count`), by chance (`probability`), or everybody at once."""

    def __init__(self, slot: "SlotSettings", seed: int, empty: Callable[[], Counters]) -> None:
        self._seed = word(seed)
        self.waiting: Waiting | None = None
        if slot.min_count > 1:
            period_ms = max(1, round(slot.waiting_seconds * 1000))
            self.waiting = Waiting(slot.min_count, period_ms, slot.max_waiting, empty)
        self._highest: int | None = None
        if slot.probability is not None:
            self._highest = math.ceil(slot.probability * 2**64) - 1 - 2**63

    def earned(self, keys_A: Tensor, at_ms_A: Tensor) -> Tensor | None:
        """True for occurrences that have earned their id a row, and for later ones of such an id
        (bool [A]); None where all have.

        By chance: an occurrence earns the row if its 64 random bits, a function of seed, key and
        time alone, are below probability * 2^64.
        """
        if self.waiting is not None:
            return self.waiting.earned(keys_A)
        if self._highest is not None:
            bits_A = mixed(keys_A ^ mixed(at_ms_A ^ self._seed))
            # Signed numbers, moved so that they are in the order of the unsigned ones.
            return since_first((bits_A ^ -(2**63)) <= self._highest, keys_A)
        return None

    def forget(self, keys_M: Tensor) -> None:
        """Drop what is kept of distinct ids that wait."""
        if self.waiting is not None:
            self.waiting.forget(keys_M)

    def pass_time(self, watermark_ms: int) -> None:
        """Forget ids that have stayed away."""
        if self.waiting is not None:
            self.waiting.pass_time(watermark_ms)
