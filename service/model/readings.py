"""Histories that were read once, kept for the next request: within a bound in bytes.

A reading stands while the weights that made it stand, no row of its items changed, and the user's
events still begin with those that it read. Who is longest unasked leaves first. One thread.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from service.histories.rings import Longs

HIT, EXTENDED, READ = "hit", "extended", "read"
"""What became of a request: nothing to read, only new events, the whole history."""

Tell = Callable[[str], object]
"""Told of every request what became of it."""


def unheard(outcome: str) -> None:
    """A `Tell` for nobody."""


ENTRY_BYTES = 2_000
"""What an entry takes beside its tensors: objects, arrays' headers, its place in the order."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read of one user, and what it depends on."""

    kept: Any
    weights: object
    """Stands for the weights that read it."""
    rows_T: Longs
    """Row of each event's item."""
    codes_TK: Tensor | None
    """Codes of the categories of items without a row; None where there are none."""
    stamp: int
    """No row of these may have changed since."""
    seen_rows_U: Longs
    """The rows of items, each once, ascending, without the unknown one."""

    @property
    def nbytes(self) -> int:
        """Bytes that keeping it takes."""
        codes = 0 if self.codes_TK is None else self.codes_TK.nbytes
        return int(self.kept.nbytes + 2 * self.rows_T.nbytes + codes + ENTRY_BYTES)


class Readings:
    """By user, in `limit_bytes`. `count` is for who asks: it is told what became of requests."""

    def __init__(self, limit_bytes: int, count: Tell = unheard) -> None:
        self._limit, self.count = limit_bytes, count
        self._readings: OrderedDict[int, Reading] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._readings)

    def get(self, user_key: int) -> Reading | None:
        """What was read of a user last, whether or not it still stands."""
        found = self._readings.get(user_key)
        if found is not None:
            self._readings.move_to_end(user_key)
        return found

    def put(self, user_key: int, reading: Reading) -> None:
        """Keep a reading; those of others leave for it if they must."""
        self._drop(user_key)
        if reading.nbytes > self._limit:
            return
        self._readings[user_key] = reading
        self.nbytes += reading.nbytes
        while self.nbytes > self._limit:
            self._drop(next(iter(self._readings)))

    def drop(self, user_keys: Iterable[int]) -> None:
        """Forget what was read of users."""
        for user_key in user_keys:
            self._drop(user_key)

    def clear(self) -> None:
        """Forget all readings."""
        self._readings.clear()
        self.nbytes = 0

    def _drop(self, user_key: int) -> None:
        if (gone := self._readings.pop(user_key, None)) is not None:
            self.nbytes -= gone.nbytes


def distinct(rows_T: Longs) -> Longs:
    """Rows, each once, ascending; the unknown row is no item."""
    rows_U: Longs = np.unique(rows_T)
    return rows_U[rows_U > 0]
