"""One slot's embedding table: key index, rows, admission and expiry under one owner."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from kernels.key_index import RESERVED_KEY, key_index
from service.errors import ModelMismatch
from service.settings import Section
from service.store.admission import Admission
from service.store.expiry import Sweep
from service.store.rows import NEVER_EXPIRES_MS, Rows

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_LONG_AGO_MS = -(2**63)
"""Last use of a row before its first occurrence is counted."""


class SlotSettings(Section):
    """What one slot (user ids, item ids, ...) keeps for its ids."""

    dim: int = Field(64, ge=1, le=4096)
    """Width of a vector."""
    min_count: int = Field(1, ge=1, lt=2**31)
    """Occurrences that earn an id its row."""
    ttl_seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Event time without an occurrence after which an id loses its row; None: rows stay."""
    max_rows: int | None = Field(None, ge=1)
    """Most ids with a row; further ones are refused and counted. None: no limit."""
    learning_rate: float = Field(0.02, gt=0, allow_inf_nan=False)
    """Row-wise Adagrad's."""
    init_scale: float = Field(0.01, ge=0, allow_inf_nan=False)
    """Standard deviation of a new row's components."""


class Admitted(NamedTuple):
    """Row of each occurrence (0: the unknown row), and the rows made for new ids, each once, in
    the order in which they were earned."""

    rows_N: Tensor
    new_rows_M: Tensor


class Expired(NamedTuple):
    """Keys that lost their rows, and those rows, in sweep order."""

    keys_M: Tensor
    rows_M: Tensor


class EmbeddingTable:
    """Vectors by 64-bit key. Row 0 is the learned *unknown* row: ids without a row read it.

    Batches act as their keys would one by one, so that rows, row numbers and counts do not depend
    on how a stream is cut into batches; vectors of new rows depend on seed and key alone. Both
    backends number rows alike.
    """

    def __init__(self, settings: SlotSettings, seed: int, backend: str = "numba") -> None:
        self.settings = settings
        self.refused = 0
        """Occurrences that had earned a row while `max_rows` were taken."""
        self._index = key_index(backend)
        self._rows = Rows(settings.dim, seed, settings.init_scale, backend)
        self._admission = Admission(settings.min_count, backend) if settings.min_count > 1 else None
        self._sweep = Sweep(settings.ttl_seconds) if settings.ttl_seconds is not None else None
        self._start_unknown()

    @property
    def vectors_RD(self) -> Tensor:
        """All rows up to the highest in use, zeros where free. A view: stale after `admit`."""
        return self._rows.vectors_RD

    @property
    def last_seen_ms_R(self) -> Tensor:
        """Latest event time of each row's id in ms; 2^63 - 1 for row 0 and free rows. A view."""
        return self._rows.last_seen_ms_R

    @property
    def counts_R(self) -> Tensor:
        """Occurrences of each row's id, float32; 0 for row 0 and free rows. A view."""
        return self._rows.counts_R

    @property
    def nbytes(self) -> int:
        """Bytes allocated for rows, index and admission counts, unused capacity included."""
        waiting = self._admission.nbytes if self._admission is not None else 0
        return self._rows.nbytes + self._index.nbytes + waiting

    @property
    def waiting(self) -> int:
        """Ids that were seen and have not earned a row."""
        return len(self._admission) if self._admission is not None else 0

    def __len__(self) -> int:
        """Ids that have a row."""
        return len(self._index)

    def lookup(self, keys_N: Tensor) -> Tensor:
        """Row of each key, 0 where it has none; changes nothing. The reserved key: ValueError."""
        return _table_rows(self._index.lookup(keys_N))

    def admit(self, keys_N: Tensor, at_ms_N: Tensor) -> Admitted:
        """Count one occurrence of each key at its event time, and give rows to ids that earned one.

        (1) Occurrences of ids with a row read it. (2) Others are counted; from the `min_count`-th
        on, the id has a row if one is to be had. (3) Each occurrence that has a row adds 1 to its
        count and raises its last-seen time. Occurrences before the earning one read row 0, also
        within one batch. Raises ValueError, having changed nothing, for the reserved key or if
        there is not one int64 time per key.
        """
        if at_ms_N.shape != keys_N.shape or at_ms_N.dtype != torch.int64:
            raise ValueError(f"{len(keys_N)} keys need one int64 time each, not {at_ms_N.shape}")
        rows_N = self.lookup(keys_N)
        keys, rows = keys_N.numpy(), rows_N.numpy()
        absent_A = np.flatnonzero(rows == 0)
        new_rows_M = rows[:0]
        if len(absent_A):
            earned_A = absent_A[self._earned(keys[absent_A])]
            rows[earned_A], new_rows_M = self._make(keys[earned_A])
        self._rows.touch(rows_N, at_ms_N)
        return Admitted(rows_N, torch.from_numpy(new_rows_M))

    def gather(self, rows_N: Tensor) -> Tensor:
        """Copies of the rows' vectors, [N, D]. IndexError for a row outside the table."""
        return self._rows.gather(rows_N)

    def update(self, rows_N: Tensor, grads_ND: Tensor) -> None:
        """One row-wise Adagrad step per distinct row, its gradients summed first."""
        self._rows.update(rows_N, grads_ND, self.settings.learning_rate)

    def expire(self, watermark_ms: int, budget_rows: int) -> Expired:
        """Look at the next `budget_rows` rows and free those with watermark - last seen > ttl.

        What they held is overwritten at once; the ids start anew if they return.
        """
        if self._sweep is None:
            return Expired(*torch.empty(2, 0, dtype=torch.int64))
        rows_M = self._sweep.expired(self.last_seen_ms_R, watermark_ms, budget_rows)
        keys_M = self.keys_of(rows_M)
        self._index.remove(keys_M)
        self._rows.clear(rows_M.numpy())
        return Expired(keys_M, rows_M)

    def keys_of(self, rows_N: Tensor) -> Tensor:
        """Key of each row; the reserved key for row 0 and free rows."""
        rows, keys = rows_N.numpy(), self._index.keys().numpy()
        keys_N = np.full(len(rows), RESERVED_KEY, np.int64)
        keys_N[rows > 0] = keys[rows[rows > 0] - 1]
        return torch.from_numpy(keys_N)

    def live_rows(self) -> Tensor:
        """Rows that belong to ids, ascending; row 0 is not among them."""
        return (self._index.keys() != RESERVED_KEY).nonzero().squeeze(1).add_(1)

    def live_keys(self) -> Tensor:
        """The keys of `live_rows`, in that order."""
        return self._index.keys()[self.live_rows() - 1]

    def state(self) -> dict[str, Tensor]:
        """Copies of everything that later results depend on, settings and seed apart."""
        cursor = self._sweep.cursor if self._sweep else 0
        waiting = self._admission.state() if self._admission is not None else {}
        return {
            **{f"index.{name}": tensor for name, tensor in self._index.state().items()},
            **{f"rows.{name}": tensor for name, tensor in self._rows.state().items()},
            **{f"waiting.{name}": tensor for name, tensor in waiting.items()},
            "cursor": torch.tensor(cursor),
            "refused": torch.tensor(self.refused),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Become the table that returned `state` (of either backend), bit for bit.

        Raises ModelMismatch if its vectors are of another width.
        """
        width = state["rows.vectors"].shape[1]
        if width != self.settings.dim:
            raise ModelMismatch(
                f"the saved table has dim = {width}, this one dim = {self.settings.dim}; "
                f"set dim = {width} or start from an empty directory"
            )
        self._index.load(_part(state, "index."))
        self._rows.load(_part(state, "rows."))
        self.refused = int(state["refused"])
        if self._sweep:
            self._sweep.cursor = int(state["cursor"])
        if self._admission is not None and "waiting.keys" in state:
            self._admission.load(_part(state, "waiting."))

    def _start_unknown(self) -> None:
        self._rows.extend(1)
        unknown = torch.tensor([RESERVED_KEY])
        self._rows.start(np.zeros(1, np.int64), unknown, counts=0, at_ms=NEVER_EXPIRES_MS)

    def _earned(self, keys_A: Int64s) -> Bools:
        """True for occurrences of absent ids that have earned a row and find one free."""
        earned_A = np.ones(len(keys_A), np.bool_)
        if self._admission is not None:
            earned_A = self._admission.earned(torch.from_numpy(keys_A))
        room = len(keys_A) if self.settings.max_rows is None else self.settings.max_rows - len(self)
        if np.count_nonzero(earned_A) > room:
            fits_E = _of_first_keys(keys_A[earned_A], room)
            self.refused += int(np.count_nonzero(~fits_E))
            earned_A[earned_A] = fits_E
        return earned_A

    def _make(self, keys_E: Int64s) -> tuple[Int64s, Int64s]:
        """Rows of the occurrences and, once each, the rows that are new."""
        index_rows_E, is_new_E = self._index.insert(torch.from_numpy(keys_E))
        rows_E, is_new = _table_rows(index_rows_E).numpy(), is_new_E.numpy()
        new_rows_M, new_keys_M = rows_E[is_new], torch.from_numpy(keys_E[is_new])
        if self._admission is not None:
            self._admission.forget(new_keys_M)
        self._rows.extend(self._index.rows_end + 1)
        earlier = self.settings.min_count - 1
        self._rows.start(new_rows_M, new_keys_M, counts=earlier, at_ms=_LONG_AGO_MS)
        return rows_E, new_rows_M


def _table_rows(index_rows_N: Tensor) -> Tensor:
    """The index numbers rows from 0 and says -1 for absent: one more is the table's number.

    In place and by numpy: torch would split so light a loop over threads, which beside other work
    on the same cores costs a hundred times what it saves.
    """
    rows: Int64s = index_rows_N.numpy()
    rows += 1
    return index_rows_N


def _of_first_keys(keys_N: Int64s, limit: int) -> Bools:
    """True where the key is among the first `limit` distinct ones, by first occurrence."""
    first = list(dict.fromkeys(keys_N.tolist()))[:limit]
    return np.isin(keys_N, np.array(first, np.int64))


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
