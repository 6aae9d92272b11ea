"""What has changed since a version was taken: rows by a mark each, and keys that lost their row."""

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.rows import CHANGED, KNOWN, RowTable


class Changes(NamedTuple):
    """Makes the version before into this one: drop the removed keys first, then write the rows.

    Rows ascend, the unknown row with the reserved key is always the first; so do removed keys.
    `new_M` is True for rows that the version before does not have, `number` counts what was taken.
    Where there is no version before, `instead_of` are the changes since the one that there was.
    """

    rows_M: Tensor
    keys_M: Tensor
    removed_keys_T: Tensor
    new_M: Tensor
    number: int
    instead_of: "Changes | None" = None

    def to(self, device: torch.device) -> "Changes":
        """The same on another device."""
        return self._replace(
            rows_M=self.rows_M.to(device),
            keys_M=self.keys_M.to(device),
            removed_keys_T=self.removed_keys_T.to(device),
            new_M=self.new_M.to(device),
        )

    def whole(self, rows_M: Tensor, keys_M: Tensor) -> "Changes":
        """As if there were no version before: all rows that there are, and their keys."""
        new_M = torch.ones_like(rows_M, dtype=torch.bool)
        return Changes(rows_M, keys_M, self.removed_keys_T[:0], new_M, self.number, self)


class ChangeLog:
    """Tombstones, and the use that is made of marks. Never more than one tombstone for each row of
    the last version: an id born and removed since then leaves no trace."""

    def __init__(self, device: torch.device) -> None:
        self._no_keys = torch.empty(0, dtype=torch.int64, device=device)
        self._removed = [self._no_keys]
        self._taken = 0

    def removed(self, rows: RowTable, rows_M: Tensor, keys_M: Tensor) -> None:
        """Note keys that lose their rows, before the marks of these go."""
        known_M = (rows.take(rows_M, ["marks"])["marks"] & KNOWN) > 0
        self._removed.append(keys_M[known_M])

    def take(self, rows: RowTable, rows_M: Tensor, keys_M: Tensor) -> Changes:
        """All changes since the last call, `rows_M` being the changed rows; a new set starts."""
        marks_M = rows.take(rows_M, ["marks"])["marks"]
        rows.put(rows_M, {"marks": torch.full_like(marks_M, KNOWN)})
        removed_T = torch.cat(self._removed).unique()
        self._removed = [self._no_keys]
        self._taken += 1
        return Changes(rows_M, keys_M, removed_T, (marks_M & KNOWN) == 0, self._taken)

    def put_back(self, rows: RowTable, changes: Changes, held_M: Tensor, again_X: Tensor) -> None:
        """Count changes whose version failed as changes again.

        `held_M`: which of their rows still belong to their keys. `again_X`: rows that removed keys
        have by now, which must be written again behind their tombstones.
        """
        self._removed.append(changes.removed_keys_T)
        marks = rows.take(changes.rows_M[held_M], ["marks"])["marks"] | CHANGED
        if changes.number == self._taken:
            marks[changes.new_M[held_M]] = CHANGED
        rows.put(changes.rows_M[held_M], {"marks": marks})
        rows.put(again_X, {"marks": rows.take(again_X, ["marks"])["marks"] | CHANGED})

    @property
    def nbytes(self) -> int:
        """Bytes of the tombstones."""
        return sum(keys.nbytes for keys in self._removed)
