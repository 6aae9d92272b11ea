"""Tables of both backends against a dict that takes one occurrence at a time.

A twin that is never saved runs beside the others: restored tables must stay bit-equal to it.
"""

import math
import random
from dataclasses import dataclass, field

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kernels.row_init import initial_rows
from service.store import EmbeddingTable, SlotSettings

DIM, SEED = 3, 11
POOL = [0, 1, -1, 2**63 - 1, -(2**63) + 1, *range(100, 112), *(j << 50 for j in range(1, 6))]
SIZES, SEEDS = st.sampled_from([0, 1, 5, 40, 80]), st.integers(0, 2**32)


def sample(size: int, seed: int) -> torch.Tensor:
    """Keys of the pool, repeats included. Drawn from a seed, which fills more batches than
    hypothesis's own lists do."""
    return torch.tensor(random.Random(seed).choices(POOL, k=size), dtype=torch.int64)


@dataclass
class Row:
    """What the oracle remembers of an id that has a row."""

    row: int
    count: int
    last_seen_ms: int
    vector: torch.Tensor
    squares: float = 0.0


@dataclass
class Oracle:
    """The table's promises in plain Python."""

    slot: SlotSettings
    rows: dict[int, Row] = field(default_factory=dict)
    waiting: dict[int, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    end: int = 1
    cursor: int = 0
    refused: int = 0

    def occur(self, key: int, at_ms: int) -> int:
        if key not in self.rows:
            self.waiting[key] = self.waiting.get(key, 0) + 1
            if self.waiting[key] < self.slot.min_count:
                return 0
            if len(self.rows) == (self.slot.max_rows or math.inf):
                self.refused += 1
                self.waiting[key] *= self.slot.min_count > 1
                return 0
            self._start(key)
        row = self.rows[key]
        row.count += 1
        row.last_seen_ms = max(row.last_seen_ms, at_ms)
        return row.row

    def _start(self, key: int) -> None:
        del self.waiting[key]
        row = self.free.pop() if self.free else self.end
        self.end = max(self.end, row + 1)
        vector = initial_rows(torch.tensor([key]), DIM, SEED, self.slot.init_scale)[0]
        self.rows[key] = Row(row, self.slot.min_count - 1, -(2**63), vector)

    def expire(self, watermark_ms: int, budget: int) -> list[tuple[int, int]]:
        key_of = {row.row: key for key, row in self.rows.items()}
        gone = []
        for _ in range(min(budget, self.end)):
            key = key_of.get(self.cursor)
            age = -1 if key is None else watermark_ms - self.rows[key].last_seen_ms
            if key is not None and age > self.slot.ttl_seconds * 1000:
                gone.append((key, self.rows.pop(key).row))
                self.free.append(gone[-1][1])
            self.cursor = (self.cursor + 1) % self.end
        return gone


class TableAgainstOracle(RuleBasedStateMachine):
    """Rows, numbers, counts, times and vectors of every table are the oracle's."""

    @initialize(min_count=st.sampled_from([1, 3]), max_rows=st.sampled_from([None, 6]))
    def build(self, min_count: int, max_rows: int | None) -> None:
        self.slot = SlotSettings(dim=DIM, min_count=min_count, max_rows=max_rows, ttl_seconds=5)
        self.oracle = Oracle(self.slot)
        self.tables = {
            "reference": EmbeddingTable(self.slot, SEED, "reference"),
            "numba": EmbeddingTable(self.slot, SEED),
            "twin": EmbeddingTable(self.slot, SEED),
        }

    @rule(size=SIZES, seed=SEEDS, since_ms=st.integers(0, 30_000))
    def admit(self, size: int, seed: int, since_ms: int) -> None:
        keys = sample(size, seed)
        at_ms = since_ms + (keys + seed) % 5000
        known = set(self.oracle.rows)
        occurrences = zip(keys.tolist(), at_ms.tolist(), strict=True)
        expected = [self.oracle.occur(key, at_ms) for key, at_ms in occurrences]
        new = {key: row.row for key, row in self.oracle.rows.items() if key not in known}
        for table in self.tables.values():
            admitted = table.admit(keys, at_ms)
            assert admitted.rows_N.tolist() == expected
            assert sorted(admitted.new_rows_M.tolist()) == sorted(new.values())

    @rule(size=SIZES, seed=SEEDS, gradient=st.floats(-3, 3, width=32))
    def update(self, size: int, seed: int, gradient: float) -> None:
        keys = sample(size, seed).tolist()
        grads = gradient * torch.arange(1, len(keys) * DIM + 1).view(-1, DIM).float().sin()
        rows = [self.oracle.rows[key].row if key in self.oracle.rows else 0 for key in keys]
        for table in self.tables.values():
            found = table.lookup(torch.tensor(keys, dtype=torch.int64))
            assert found.tolist() == rows
            table.update(found, grads)
        for key in set(keys) & set(self.oracle.rows):
            row = self.oracle.rows[key]
            total = grads[torch.tensor([k == key for k in keys])].sum(0)
            row.squares += float(total.square().mean())
            row.vector = row.vector - SlotSettings().learning_rate * total / (
                math.sqrt(row.squares) + 1e-8
            )

    @rule(watermark_ms=st.integers(0, 60_000), budget=st.sampled_from([0, 3, 30]))
    def expire(self, watermark_ms: int, budget: int) -> None:
        gone = self.oracle.expire(watermark_ms, budget)
        for table in self.tables.values():
            keys_M, rows_M = table.expire(watermark_ms, budget)
            assert list(zip(keys_M.tolist(), rows_M.tolist(), strict=True)) == gone

    @rule()
    def save_and_restore(self) -> None:
        for name in ("reference", "numba"):
            state = self.tables[name].state()
            self.tables[name] = EmbeddingTable(self.slot, SEED, name)
            self.tables[name].load(state)

    @rule()
    def move_to_the_other_backend(self) -> None:
        self.tables["reference"].load(self.tables["numba"].state())

    @invariant()
    def all_agree(self) -> None:
        if not hasattr(self, "tables"):
            return
        rows = sorted(self.oracle.rows.items(), key=lambda item: item[1].row)
        waiting = sum(count > 0 for count in self.oracle.waiting.values())
        for table in self.tables.values():
            live = table.live_rows()
            assert live.tolist() == [row.row for _, row in rows]
            assert table.live_keys().tolist() == [key for key, _ in rows]
            assert table.counts_R[live].tolist() == [row.count for _, row in rows]
            assert table.last_seen_ms_R[live].tolist() == [row.last_seen_ms for _, row in rows]
            assert (len(table), table.waiting) == (len(rows), waiting)
            assert (table.refused, len(table.vectors_RD)) == (self.oracle.refused, self.oracle.end)
            # float32 sums in another order, over at most some dozens of steps.
            for found, (_, row) in zip(table.gather(live), rows, strict=True):
                torch.testing.assert_close(found, row.vector, rtol=1e-4, atol=1e-5)

    @invariant()
    def the_restored_table_is_the_twin_that_never_stopped(self) -> None:
        if hasattr(self, "tables"):
            twin, restored = self.tables["twin"].state(), self.tables["numba"].state()
            assert twin.keys() == restored.keys()
            assert all(torch.equal(twin[name], restored[name]) for name in twin)


TestTableAgainstOracle = TableAgainstOracle.TestCase
TestTableAgainstOracle.settings = settings(
    derandomize=True, deadline=None, max_examples=60, stateful_step_count=50
)
