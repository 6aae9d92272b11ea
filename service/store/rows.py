"""Rows by key: an index, what its rows hold, and what has changed in them."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kernels.crew import Crew
from kernels.key_index import RESERVED_KEY, key_index
from kernels.row_init import initial_rows
from kernels.rows import CHANGED, KNOWN, Decay, Optimizer, row_table
from kernels.rows.columns import DTYPES, names_of, shape_of
from service.errors import ModelMismatch
from service.store.changes import ChangeLog, Changes
from service.store.occurrences import number_from_one

if TYPE_CHECKING:
    from service.store.settings import SlotSettings

Tensors = dict[str, Tensor]

_LONG_AGO_MS = -(2**63)
"""Last use of a row before its first occurrence is counted."""
_AT_ONCE = 32_768
"""Rows handled at once where all rows are."""


class Removed(NamedTuple):
    """Keys that lost their rows, and those rows, in the order in which they did."""

    keys_M: Tensor
    rows_M: Tensor


class KeyedRows:
    """Row 0 is the unknown row, which nobody's key has; the index's row r is row r + 1 here.

    Whatever changes a row passes through here, so that no change escapes the next version.
    """

    def __init__(
        self, slot: "SlotSettings", seed: int, backend: str, crew: Crew, device: torch.device
    ) -> None:
        self._slot, self._seed, self._backend = slot, seed, backend
        self._index = key_index(backend, crew, str(device))
        self._empty = lambda: row_table(slot.dim, slot.moments, backend, crew, str(device))
        self.table = self._empty()
        self.device, self._log = device, ChangeLog(device)
        self.nobody = Removed(*torch.empty(2, 0, dtype=torch.int64, device=device))
        self._free_kept = 0
        self.table.extend(1)
        vectors_1D = self._initial(torch.tensor([RESERVED_KEY], device=device))
        marks_1 = torch.full((1,), CHANGED, dtype=torch.uint8, device=device)
        self.table.put(self._range(0, 1), {"vectors": vectors_1D, "marks": marks_1})

    def find(self, keys_N: Tensor) -> tuple[Tensor, Tensor | None]:
        """Row of each key, 0 where it has none, and where those are (None: nowhere)."""
        rows_N = self._index.lookup(keys_N)
        return rows_N, number_from_one(rows_N)

    def make(
        self, keys_E: Tensor, at_ms_E: Tensor, earlier: int, decay: Decay
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give rows to keys that have none. Returns the row of each, and the rows and keys that are
        new, each once; they start like those of ids never seen, with `earlier` occurrences."""
        index_rows_E, is_new_E = self._index.insert(keys_E)
        self._free_kept = min(self._free_kept, self.free)
        rows_E = index_rows_E + 1
        rows_M, keys_M, at_ms_M = rows_E[is_new_E], keys_E[is_new_E], at_ms_E[is_new_E]
        self.table.extend(self._index.rows_end + 1)
        self.table.clear(rows_M)  # of what a late update may have left in a freed row
        columns = {
            "vectors": self._initial(keys_M),
            "last_seen_ms": torch.full_like(rows_M, _LONG_AGO_MS),
            "admitted_ms": at_ms_M,
        }
        if earlier:
            columns["weight"] = decay.weights(at_ms_M) * earlier
        self.table.put(rows_M, columns)
        return rows_E, rows_M, keys_M

    def release(self, keys_N: Tensor) -> Removed:
        """Free the rows of keys, as far as they have one, and overwrite what they held."""
        rows_N = self._index.remove(keys_N) + 1
        had_N = rows_N > 0
        removed = Removed(keys_N[had_N], rows_N[had_N])
        self._log.removed(self.table, removed.rows_M, removed.keys_M)
        self.table.clear(removed.rows_M)
        return removed

    def mark(self, rows_M: Tensor) -> None:
        """What is kept beside these distinct rows has changed."""
        marks_M = self.table.take(rows_M, ["marks"])["marks"]
        self.table.put(rows_M, {"marks": marks_M | CHANGED})

    def touch(self, rows_N: Tensor, at_ms_N: Tensor, decay: Decay) -> None:
        """One occurrence of each row but the unknown one."""
        self.table.touch(rows_N, at_ms_N, decay)

    def step(self, rows_N: Tensor, grads_ND: Tensor, optimizer: Optimizer, decay: Decay) -> None:
        """One step of the optimizer for each distinct row."""
        self.table.step(rows_N, grads_ND, optimizer, decay)

    def reweigh(self, factor: float) -> None:
        """Multiply all decayed counts, which changes every row."""
        if factor == 1:
            return
        for rows_M in self._held().split(_AT_ONCE):
            columns = self.table.take(rows_M, ["weight", "marks"])
            columns["weight"] *= factor
            columns["marks"] |= CHANGED
            self.table.put(rows_M, columns)

    def cut(self, whole: bool) -> tuple[Changes, Tensors]:
        """What has changed since the last call (`whole`: since there was nothing), and how `folded`
        makes the rows and the index of then into those of now. Copies."""
        changes = self._changes()
        if whole:
            rows_M, self._free_kept = self._held(), 0
            changes = changes.whole(rows_M, self.keys_of(rows_M))
        columns = self.table.take(changes.rows_M, self._columns)
        free_kept, self._free_kept = self._free_kept, self.free
        return changes, {
            "changed.rows": changes.rows_M,
            "changed.keys": changes.keys_M,
            **{f"changed.columns.{name}": column for name, column in columns.items()},
            "removed.keys": changes.removed_keys_T,
            "free.kept": torch.tensor(free_kept),
            "free.tail": self._index.free()[free_kept:].clone(),
            "end": torch.tensor(self.end),
        }

    def put_back(self, changes: Changes) -> None:
        """Count these changes as changes again."""
        changes = (changes.instead_of or changes).to(self.device)
        self._free_kept = 0
        held_M = changes.rows_M < self.end
        held_M &= self.keys_of(changes.rows_M.where(held_M, 0)) == changes.keys_M
        again_X, _ = self.find(changes.removed_keys_T)
        self._log.put_back(self.table, changes, held_M, again_X[again_X > 0])

    def state(self) -> Tensors:
        """Copies of everything on the CPU."""
        self._changed()
        index = {f"index.{name}": t.cpu() for name, t in self._index.state().items()}
        return index | {f"rows.{name}": self._copied(name) for name in self._columns}

    def load(self, state: Tensors) -> None:
        """Become the rows that `state` was copied from, all of them known to the last version.

        ModelMismatch, changing nothing, for another width or other columns.
        """
        self._check_columns(state)
        self._index.load({name: state[f"index.{name}"] for name in ("keys", "free")})
        self.table, self._log = self._empty(), ChangeLog(self.device)
        self.table.extend(len(state["rows.weight"]))
        columns = {n.removeprefix("rows."): t for n, t in state.items() if n.startswith("rows.")}
        for first in range(0, self.end, _AT_ONCE):
            end = min(first + _AT_ONCE, self.end)
            slices = {name: column[first:end].to(self.device) for name, column in columns.items()}
            self.table.put(self._range(first, end), slices)
        rows_M, self._free_kept = self._held(), self.free
        self.table.put(rows_M, {"marks": torch.full_like(rows_M, KNOWN, dtype=torch.uint8)})

    def keys_of(self, rows_N: Tensor) -> Tensor:
        """Key of each row; the reserved key for row 0 and free rows."""
        keys_N = torch.full_like(rows_N, RESERVED_KEY)
        given_N = rows_N > 0
        keys_N[given_N] = self._index.key_at(rows_N[given_N] - 1)
        return keys_N

    def live(self) -> Tensor:
        """Rows that belong to keys, ascending."""
        return (self._index.keys() != RESERVED_KEY).nonzero().squeeze(1) + 1

    def __len__(self) -> int:
        """Keys that have a row."""
        return len(self._index)

    @property
    def end(self) -> int:
        """One more than the highest row ever given out."""
        return self.table.end

    @property
    def free(self) -> int:
        """Rows that can be given out before `end` grows."""
        return self._index.rows_end - len(self._index)

    def bytes_by_part(self) -> dict[str, int]:
        """Bytes in use."""
        rows, index, tombstones = self.table.nbytes, self._index.nbytes, self._log.nbytes
        return {"rows": rows, "index": index, "tombstones": tombstones}

    def _held(self) -> Tensor:
        """The unknown row and those that belong to keys, ascending."""
        return torch.cat([self._range(0, 1), self.live()])

    def _changes(self) -> Changes:
        unknown = self._range(0, 1)
        marks_1 = self.table.take(unknown, ["marks"])["marks"]
        self.table.put(unknown, {"marks": marks_1 | CHANGED})
        return self._log.take(self.table, *self._changed())

    def _changed(self) -> tuple[Tensor, Tensor]:
        """Changed rows that are held, ascending, and their keys. What a late update has left in
        freed rows is overwritten."""
        rows_M = self.table.changed()
        keys_M = self.keys_of(rows_M)
        held_M = (keys_M != RESERVED_KEY) | (rows_M == 0)
        self.table.clear(rows_M[~held_M])
        return rows_M[held_M], keys_M[held_M]

    @property
    def _columns(self) -> list[str]:
        """Names of what a row holds for good."""
        return [name for name in names_of(self._slot.moments) if name != "marks"]

    def _copied(self, name: str) -> Tensor:
        column_R = torch.empty(shape_of(name, self.end, self._slot.dim), dtype=DTYPES[name])
        for first in range(0, self.end, _AT_ONCE):
            end = min(first + _AT_ONCE, self.end)
            column_R[first:end] = self.table.column(name, first, end)
        return column_R

    def _check_columns(self, state: Tensors) -> None:
        width, dim = state["rows.vectors"].shape[1], self._slot.dim
        if width != dim:
            raise ModelMismatch(
                f"the saved table has dim = {width}, this one dim = {dim}; "
                f"set dim = {width} or start from an empty directory"
            )
        ours = sorted(self._columns)
        theirs = sorted(n.removeprefix("rows.") for n in state if n.startswith("rows."))
        if theirs != ours:
            raise ModelMismatch(
                f"the saved table keeps {', '.join(theirs)}; this one, with optimizer = "
                f"{self._slot.optimizer!r}, {', '.join(ours)}; set the optimizer it was trained "
                "with, or start from an empty directory"
            )

    def _initial(self, keys_M: Tensor) -> Tensor:
        slot = self._slot
        return initial_rows(keys_M, slot.dim, self._seed, slot.init_scale, self._backend)

    def _range(self, first: int, end: int) -> Tensor:
        return torch.arange(first, end, device=self.device)
