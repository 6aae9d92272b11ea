"""Versions that follow a learned one, committed as a trainer does, at no cost of learning.

Rows and dense weights move at random from a seed; what is moved is what a trainer would move.
"""

import time
from typing import Any

import msgspec
import torch
from torch import Tensor

from service.commands.folder import DataFolder
from service.model.ranker import ITEM_SLOT
from service.versions import RowIds, SlotRows, Snapshot, VersionDirectory

ROWS = 100
"""Rows that a delta holds."""
DENSE_EVERY, BASE_EVERY = 3, 32
"""One version in so many brings new dense weights; one in so many is a base, loaded whole."""
_MOVED = 0.05


class Publisher:
    """Commits one version after another, each a delta of the one before, or a base."""

    def __init__(self, folder: DataFolder) -> None:
        self.directory = VersionDirectory(folder.root / "versions")
        newest = self.directory.latest()
        assert newest is not None
        self._manifest = self.directory.manifest(newest)
        learned = Snapshot.read(self.directory, newest)
        self._model, self._dense, self._at_ms = learned.model, learned.weights(), learned.at_ms
        self._rows = learned.slots[ITEM_SLOT]
        self._vectors_RD = self._rows.vectors()
        self._random = torch.Generator().manual_seed(0)

    @property
    def number(self) -> int:
        """The newest version's number."""
        return self._manifest.number

    def publish(self) -> int:
        """Commit the next version; its number."""
        number, parent = self.number + 1, self._manifest
        whole = number % BASE_EVERY == 0
        rows_N = torch.randperm(len(self._rows) - 1, generator=self._random)[:ROWS] + 1
        self._vectors_RD[rows_N] += _MOVED * self._drawn(self._vectors_RD[rows_N])
        dense = self._moved() if number % DENSE_EVERY == 0 else {}
        self._dense |= dense
        snapshot = Snapshot(
            number, self._model, self._dense if whole else dense,
            {ITEM_SLOT: self._slot(None if whole else rows_N)},
            None if whole else parent.number, {}, self._at_ms,
        ).quantized({f"slots/{ITEM_SLOT}": "int8"})  # fmt: skip
        generation = self.directory.decisions().generation
        with self.directory.begin(number, generation) as draft:
            kept = parent.histories if whole else [*parent.histories, *parent.snapshot]
            for name in kept:
                draft.share(name, parent.files[name])
            step = None if whole else snapshot.write_step(draft)
            if whole:
                snapshot.write(draft)
            self._manifest = draft.commit(
                msgspec.structs.replace(
                    parent, number=number, parent=parent.number, created_at=time.time(),
                    files={}, checkpoint=[], snapshot=[], histories=[], step=step,
                    snapshot_parent=None if whole else parent.number, decisions=generation,
                )
            )  # fmt: skip
        return number

    def _slot(self, rows_N: Tensor | None) -> SlotRows:
        """These rows after the unknown one, or all."""
        if rows_N is None:
            rows_N = torch.arange(1, len(self._rows))
        rows_N = torch.cat([torch.zeros(1, dtype=torch.int64), rows_N])
        ids: Any = self._rows.ids
        return SlotRows(
            self._rows.keys_R[rows_N], self._vectors_RD[rows_N],
            {name: extra[rows_N] for name, extra in self._rows.extra.items()},
            RowIds.from_list([ids[row] for row in rows_N.tolist()]),
        )  # fmt: skip

    def _moved(self) -> dict[str, Tensor]:
        return {
            name: weight * (1 + _MOVED * self._drawn(weight))
            for name, weight in self._dense.items()
        }

    def _drawn(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._random)
