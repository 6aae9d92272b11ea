"""One slot's embedding table: rows by key, and who gets one, keeps it and loses it."""

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kernels.crew import Crew
from kernels.key_index import key_index
from service.store.admission import Admission
from service.store.budget import Budget, row_bytes, waiting_bytes
from service.store.changes import Changes
from service.store.clock import Clock
from service.store.counters import Counters
from service.store.deltas import TableDelta
from service.store.expiry import Sweep
from service.store.room import Room
from service.store.rows import KeyedRows, Removed

if TYPE_CHECKING:
    from service.store.settings import SlotSettings


class Admitted(NamedTuple):
    """Row of each occurrence (0: the unknown row), the rows made for new ids, each once, in the
    order in which they were earned, and what had left before to make room for them."""

    rows_N: Tensor
    new_rows_M: Tensor
    evicted: Removed


class EmbeddingTable:
    """Vectors by 64-bit key. Row 0 is the learned *unknown* row: ids without a row read it.

    Batches act as their keys would one by one, so that rows, row numbers and counts do not depend
    on how a stream is cut into batches; only where a limit is met (the budget's, or that of waiting
    ids) a batch decides as a whole. Vectors of new rows depend on seed and key alone. All backends
    number rows alike. Tensors are on `device`; one thread owns a table at a time.
    """

    def __init__(
        self,
        settings: "SlotSettings",
        seed: int,
        backend: str = "numba",
        threads: int = 1,
        device: str = "cpu",
        budget: Budget | None = None,
    ) -> None:
        """`threads` share large batches; `budget` is shared with other holders of memory, and
        SettingsError says that it is too small for an empty table."""
        crew, where = Crew(threads), torch.device(device)
        self.settings = settings
        self.expired = 0
        """Ids that lost their row by expiry."""
        self._rows = KeyedRows(settings, seed, backend, crew, where)
        self._admission = Admission(
            settings, seed, lambda: Counters(key_index(backend, crew, device), where)
        )
        self._optimizer, self._clock = settings.built_optimizer(), Clock(settings.half_life_seconds)
        self._sweep = Sweep(settings.ttl_seconds)
        budget = budget or Budget()
        self._room = Room(settings, seed, self._rows, self._clock, budget)
        budget.join(self)

    def lookup(self, keys_N: Tensor) -> Tensor:
        """Row of each key, 0 where it has none; changes nothing. The reserved key: ValueError."""
        rows_N, _ = self._rows.find(keys_N)
        return rows_N

    def admit(self, keys_N: Tensor, at_ms_N: Tensor) -> Admitted:
        """Count one occurrence of each key at its event time, and give rows to ids that earned one.

        (1) Occurrences of ids with a row read it. (2) Others are counted or drawn; from the one
        that earns it on, the id has a row if one is to be had, and others may have to leave for it.
        (3) Each occurrence that has a row adds to its decayed count and raises its last-seen time.
        Occurrences before the earning one read row 0, also within one batch. Raises ValueError,
        having changed nothing, for the reserved key or if there is not one int64 time per key.
        """
        if at_ms_N.shape != keys_N.shape or at_ms_N.dtype != torch.int64:
            raise ValueError(f"{len(keys_N)} keys need one int64 time each, not {at_ms_N.shape}")
        rows_N, absent_A = self._rows.find(keys_N)
        self._clock.start(at_ms_N)
        new_rows_M, evicted = self._rows.nobody.rows_M, self._rows.nobody
        earned_E = self._earned(keys_N, at_ms_N, absent_A)
        if earned_E is not None:
            earned_E, evicted = self._room.place(keys_N, rows_N, earned_E)
            rows_N[earned_E], new_rows_M, new_keys_M = self._rows.make(
                keys_N[earned_E], at_ms_N[earned_E], self.settings.min_count - 1, self._clock.decay
            )
            self._admission.forget(new_keys_M)
        self._rows.touch(rows_N, at_ms_N, self._clock.decay)
        return Admitted(rows_N, new_rows_M, evicted)

    def gather(self, rows_N: Tensor, out_ND: Tensor | None = None) -> Tensor:
        """Copies of the rows' vectors, [N, D]. IndexError for a row outside the table."""
        return self._rows.table.gather(rows_N, out_ND)

    def update(self, rows_N: Tensor, grads_ND: Tensor) -> None:
        """One step of the optimizer per distinct row, its gradients summed first."""
        self._rows.step(rows_N, grads_ND, self._optimizer, self._clock.decay)

    def mark(self, keys_M: Tensor) -> None:
        """Count rows as changed: what is kept beside them by these distinct keys has."""
        rows_M = self.lookup(keys_M)
        self._rows.mark(rows_M[rows_M > 0])

    def expire(self, watermark_ms: int, budget_rows: int) -> Removed:
        """Time passes: look at the next `budget_rows` rows and free those with watermark - last
        seen > ttl, so that a row is gone ceil(rows / budget_rows) calls later at the latest.

        What they held is overwritten at once; the ids start anew if they return. By the same
        watermark, also without a ttl, waiting ids are forgotten and counts decay. It must be
        bounded against events dated in the future by whoever makes it.
        """
        self._admission.pass_time(watermark_ms)
        self._rows.reweigh(self._clock.advance(watermark_ms))
        rows_M = self._sweep.expired(self._rows.table, watermark_ms, budget_rows)
        self.expired += len(rows_M)
        return self._rows.release(self.keys_of(rows_M)) if len(rows_M) else self._rows.nobody

    def remove(self, keys_N: Tensor) -> Removed:
        """Erase ids, also those that wait."""
        self._admission.forget(keys_N.unique())
        return self._rows.release(keys_N)

    def cut(self, whole: bool = False) -> TableDelta:
        """Take what has changed since the last cut, or in all; `whole`: since there was nothing.

        By it, a copy of the table as it was then becomes one of the present, and a state of then
        that of now (`folded`). The unknown row is always part of it. After `load`, nothing else is.
        """
        changes, tensors = self._rows.cut(whole)
        waiting = self._admission.waiting
        if waiting is not None:
            tensors |= waiting.cut(whole)
        return TableDelta.of(changes, tensors | self._rest())

    def put_back(self, changes: Changes) -> None:
        """The version made of these changes failed: they count as changed again."""
        self._rows.put_back(changes)
        if self._admission.waiting is not None:
            self._admission.waiting.put_back()

    def state(self) -> dict[str, Tensor]:
        """Copies of everything that later results depend on, settings, seed and the set of changes
        apart; on the CPU."""
        waiting = self._admission.waiting
        counters = {} if waiting is None else waiting.state()
        return self._rows.state() | counters | self._rest()

    def load(self, state: dict[str, Tensor]) -> None:
        """Become the table that returned `state` (of any backend), bit for bit.

        Raises ModelMismatch if its rows have another width, or other columns (Adam's moments).
        """
        self._rows.load(state)
        self._rows.reweigh(self._clock.load(state))
        self._room.load(state)
        self._sweep.load(state)
        if self._admission.waiting is not None:
            self._admission.waiting.load(state)
        self.expired = int(state["expired"])

    @property
    def vectors_RD(self) -> Tensor:
        """All rows up to the highest in use, zeros where free. On the CPU a view: it lacks the rows
        that `admit` makes later."""
        return self._rows.table.column("vectors")

    @property
    def last_seen_ms_R(self) -> Tensor:
        """Latest event time of each row's id in ms; 2^63 - 1 for row 0 and free rows. As above."""
        return self._rows.table.column("last_seen_ms")

    def decayed_counts(self, rows_N: Tensor) -> Tensor:
        """Occurrences of rows' ids, each halved for every half-life up to the last watermark."""
        weights_N = self._rows.table.take(rows_N, ["weight"])["weight"]
        return self._clock.decay.count(weights_N, self._clock.now_ms)

    def keys_of(self, rows_N: Tensor) -> Tensor:
        """Key of each row; the reserved key for row 0 and free rows."""
        return self._rows.keys_of(rows_N)

    def live_rows(self) -> Tensor:
        """Rows that belong to ids, ascending; row 0 is not among them."""
        return self._rows.live()

    def live_keys(self) -> Tensor:
        """The keys of `live_rows`, in that order."""
        return self.keys_of(self.live_rows())

    def __len__(self) -> int:
        """Ids that have a row."""
        return len(self._rows)

    @property
    def refused(self) -> Counter[str]:
        """Occurrences that had earned a row and got none: `full` (when_full is refuse), `spared`
        (it is evict, and too few rows could be taken)."""
        return self._room.refused

    @property
    def evicted(self) -> int:
        """Ids that lost their row by eviction."""
        return self._room.evicted

    @property
    def waiting(self) -> int:
        """Ids that were counted and have not earned a row."""
        waiting = self._admission.waiting
        return 0 if waiting is None else len(waiting)

    @property
    def rotations_early(self) -> int:
        """How often waiting ids were forgotten before their time, for lack of room."""
        waiting = self._admission.waiting
        return 0 if waiting is None else waiting.rotations_early

    @property
    def nbytes(self) -> int:
        """Bytes in use, whole pages included."""
        return sum(self.bytes_by_part().values())

    def bytes_by_part(self) -> dict[str, int]:
        """Bytes in use, by what they are used for."""
        waiting = self._admission.waiting
        counters = 0 if waiting is None else waiting.nbytes
        return {**self._rows.bytes_by_part(), "waiting": counters}

    @property
    def charged_bytes(self) -> int:
        """What the budget counts: every row up to the highest, in use or free, and every id that
        may wait. A function of settings and state, not below `nbytes` but for some whole pages."""
        return self._rows.end * row_bytes(self.settings) + waiting_bytes(self.settings)

    def _earned(self, keys_N: Tensor, at_ms_N: Tensor, absent_A: Tensor | None) -> Tensor | None:
        """Those of the absent occurrences that have earned a row; None where there are none."""
        if absent_A is None:
            return None
        earned_A = self._admission.earned(keys_N[absent_A], at_ms_N[absent_A])
        earned_E = absent_A if earned_A is None else absent_A[earned_A]
        return earned_E if len(earned_E) else None

    def _rest(self) -> dict[str, Tensor]:
        """The small state: of everything but rows, index and ids that wait."""
        expired = {"expired": torch.tensor(self.expired)}
        return expired | self._clock.state() | self._room.state() | self._sweep.state()
