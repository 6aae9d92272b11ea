"""Events of a file in global time order, as dense columns. T events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.commands.action_rows import Columns
from service.commands.action_table import read_actions
from service.errors import InputError

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Events:
    """Actions in global time order; users and items are numbered as they appear, from 0."""

    user_T: Ints
    item_T: Ints
    at_ms_T: Ints
    previous_T: Ints
    """Position of the same user's event before this one, -1 for a user's first."""
    users: int
    items: int

    @classmethod
    def of(cls, user_T: Ints, item_T: Ints, at_ms_T: Ints) -> Events:
        """Order by time, equal times in the order given, and number the ids anew.

        Raises ValueError when the columns differ in length or hold no event.
        """
        if not len(user_T) == len(item_T) == len(at_ms_T) > 0:
            lengths = f"{len(user_T)}, {len(item_T)} and {len(at_ms_T)}"
            raise ValueError(f"users, items and times hold {lengths} events: give as many of each")
        order_T = np.argsort(at_ms_T, kind="stable")
        user_T, users = _in_order_of_appearance(user_T[order_T])
        item_T, items = _in_order_of_appearance(item_T[order_T])
        previous_T = _previous(user_T, users)
        return cls(user_T, item_T, at_ms_T[order_T], previous_T, users, items)

    def __len__(self) -> int:
        return len(self.user_T)

    def first(self, limit: int) -> Events:
        """The first `limit` events in time, their ids numbered as in the whole."""
        columns = (self.user_T, self.item_T, self.at_ms_T, self.previous_T)
        user_T, item_T, at_ms_T, previous_T = (column_T[:limit] for column_T in columns)
        users, items = int(user_T.max()) + 1, int(item_T.max()) + 1
        return Events(user_T, item_T, at_ms_T, previous_T, users, items)


def read_events(path: Path, columns: Columns) -> Events:
    """Read a file as `freshet replay` does: CSV, JSON lines (both also .gz) or Parquet.

    Raises InputError for a file that cannot be read, and for rows that cannot be used: they are
    counted, not skipped, because another reader's figures would not be comparable.
    """
    table = read_actions(path, columns)
    if table.rejected:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in table.rejected.items())
        raise InputError(f"{path} has rows that cannot be used: {reasons}; remove them first")
    user_T, item_T = table.user_T.astype(np.int64), table.item_T.astype(np.int64)
    return Events.of(user_T, item_T, np.rint(table.at_T * 1000).astype(np.int64))


def _in_order_of_appearance(id_T: Ints) -> tuple[Ints, int]:
    _, first_N, code_T = np.unique(id_T, return_index=True, return_inverse=True)
    number_N = np.empty(len(first_N), np.int64)
    number_N[np.argsort(first_N)] = np.arange(len(first_N))
    return number_N[code_T], len(first_N)


@njit(cache=True, nogil=True)
def _previous(user_T: Ints, users: int) -> Ints:
    latest_U = np.full(users, -1, np.int64)
    previous_T = np.empty(len(user_T), np.int64)
    for event in range(len(user_T)):
        previous_T[event] = latest_U[user_T[event]]
        latest_U[user_T[event]] = event
    return previous_T
