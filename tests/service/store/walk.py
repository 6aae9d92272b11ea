"""A walk: the same operations on an oracle and on tables of several backends, compared at once.

Each table has two followers, made of its cuts alone: a replica of its vectors by key, and its state
as `folded` makes it.
"""

import copy
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.key_index import RESERVED_KEY
from service.store import Budget, EmbeddingTable, TableDelta, folded
from service.store.budget import row_bytes, waiting_bytes
from service.store.settings import CapSettings, SlotSettings
from tests.service.store.oracle import Oracle, Version

SEED = 11
START_MS = 1_732_096_800_000
REASONS = {"evict": "spared", "refuse": "full"}


@dataclass(frozen=True)
class Kind:
    """How a table of the walk is made."""

    backend: str = "numba"
    threads: int = 1

    @property
    def exact(self) -> bool:
        """Weights are sums in batch order; a GPU's atomics keep none."""
        return self.backend != "triton"


@dataclass
class Saved:
    """The states of a version, and all that they must bring back."""

    oracle: Oracle
    states: dict[str, dict[str, Tensor]]


@dataclass
class Others:
    """Whoever shares the budget of a table."""

    charged_bytes: int = 0


@dataclass
class Walk:
    """Tables side by side, each with a budget and its followers, and one oracle."""

    slot: SlotSettings
    kinds: dict[str, Kind]
    cap: CapSettings = field(default_factory=CapSettings)
    saved: Saved | None = None
    others: Others = field(default_factory=Others)

    def __post_init__(self) -> None:
        self.oracle = Oracle(self.slot, SEED)
        self.budgets: dict[str, Budget] = {}
        self.tables = {name: self._table(name) for name in self.kinds}
        self.replicas: dict[str, dict[int, Tensor]] = {name: {} for name in self.tables}
        self.states: dict[str, dict[str, Tensor]] = {name: {} for name in self.tables}
        self.failed: tuple[dict[str, TableDelta], Version] | None = None

    # --- operations -------------------------------------------------------------------------

    def admit(self, keys: list[int], at_ms: list[int]) -> None:
        """One batch of training."""
        keys_N, at_ms_N = _longs(keys), _longs(at_ms)
        charged = self._charged + self.others.charged_bytes
        admitted = {name: table.admit(keys_N, at_ms_N) for name, table in self.tables.items()}
        first = self.same({n: [t.tolist() for t in _flat(a)] for n, a in admitted.items()})
        rows, new_rows, evicted, evicted_rows = first
        assert [self.oracle.row_of(key) for key in evicted] == evicted_rows

        def room_for(needed: int) -> float:
            missing = needed - self._room()
            evicts = missing > 0 and self.cap.when_full == "evict"
            self._check_eviction(evicted, set(keys), int(missing) if evicts else 0)
            self.oracle.evict(evicted)
            return self._room()

        assert rows == self.oracle.admit(keys, at_ms, room_for)
        assert new_rows == self.oracle.made
        for budget in self.budgets.values():
            assert budget.charged <= max(budget.max_bytes or math.inf, charged)

    def update(self, keys: list[int], grads_ND: Tensor) -> None:
        """One step for each distinct row among those of the keys."""
        rows = [self.oracle.row_of(key) for key in keys]
        for table in self.tables.values():
            rows_N = table.lookup(_longs(keys))
            assert rows_N.tolist() == rows
            table.update(rows_N, grads_ND.to(rows_N.device))
        self.oracle.update(rows, grads_ND.numpy())

    def expire(self, watermark_ms: int, budget: int) -> None:
        """Let time pass."""
        gone = self.oracle.expire(watermark_ms, budget)
        for table in self.tables.values():
            assert _pairs(table.expire(watermark_ms, budget)) == gone

    def remove(self, keys: list[int]) -> None:
        """Erase ids."""
        gone = self.oracle.remove(keys)
        for table in self.tables.values():
            assert _pairs(table.remove(_longs(keys))) == gone

    def publish(self, whole: bool = False) -> None:
        """Cut a version and bring the followers up to date with it: from nothing, if it is whole.
        They are the tables of now."""
        taken = self._cut(whole)
        self.saved = Saved(copy.deepcopy(self.oracle), {})
        for name, delta in taken.items():
            self._follow(name, delta, whole)
            self.saved.states[name] = self.tables[name].state()
            state = folded({} if whole else self.states[name], delta.tensors)
            expect_same_state(state, self.saved.states[name], f"{name}, folded")
            self.states[name] = state

    def publish_in_vain(self, whole: bool = False) -> None:
        """Cut a version that will fail."""
        if self.failed is None:
            expected = copy.deepcopy(self.oracle.version)
            self.failed = self._cut(whole), expected

    def put_back(self) -> None:
        """The version has failed."""
        if self.failed is not None:
            taken, expected = self.failed
            for name, delta in taken.items():
                self.tables[name].put_back(delta.changes)
            self.oracle.put_back(expected)
            self.failed = None

    def restore(self, turn: int) -> None:
        """Go back to the last version: all tables from what became of the deltas of one of them."""
        if self.saved is None:
            return
        state = list(self.saved.states.values())[turn % len(self.tables)]
        self.oracle, self.others.charged_bytes = copy.deepcopy(self.saved.oracle), 0
        for name in self.kinds:
            self._load(name, state)
        self.oracle.restored()
        self.failed = None
        keys = [RESERVED_KEY, *(key for _, key in self.oracle.by_row())]
        rows = [0, *(row for row, _ in self.oracle.by_row())]
        for name, table in self.tables.items():
            vectors_MD = table.gather(_longs(rows)).cpu()
            self.replicas[name] = dict(zip(keys, vectors_MD, strict=True))

    def restart(self, name: str) -> None:
        """One of the tables goes on from its own state, the others as if nothing had happened."""
        self.publish()
        self._load(name, self.states[name])

    def _load(self, name: str, state: dict[str, Tensor]) -> None:
        self.tables[name] = self._table(name)
        self.tables[name].load(state)
        expect_same_state(self.tables[name].state(), state, f"{name}, restored")
        self.states[name] = {each: tensor.clone() for each, tensor in state.items()}

    def _follow(self, name: str, delta: TableDelta, whole: bool) -> None:
        replica, changes = {} if whole else self.replicas[name], delta.changes
        for key in changes.removed_keys_T.tolist():
            replica.pop(key, None)
        replica.update(zip(changes.keys_M.tolist(), delta.columns["vectors"], strict=True))
        live = {RESERVED_KEY: 0, **{key: row for row, key in self.oracle.by_row()}}
        assert replica.keys() == live.keys()
        found_MD = self.tables[name].gather(_longs([live[key] for key in replica])).cpu()
        assert torch.equal(torch.stack(list(replica.values())), found_MD)
        self.replicas[name] = replica

    # --- comparisons ------------------------------------------------------------------------

    def check(self) -> None:
        """Everything that can be asked, of every table."""
        oracle = self.oracle
        pairs = oracle.by_row()
        rows, keys = [row for row, _ in pairs], [key for _, key in pairs]
        held = [oracle.held[key] for key in keys]
        for name, table in self.tables.items():
            assert table.live_rows().tolist() == rows
            assert table.live_keys().tolist() == keys
            assert table.keys_of(_longs([0, *rows])).tolist() == [RESERVED_KEY, *keys]
            assert table.lookup(_longs(keys)).tolist() == rows
            assert len(table) == len(rows)
            assert table.waiting == len(oracle.waiting)
            assert table.last_seen_ms_R.cpu()[rows].tolist() == [h.last_seen_ms for h in held]
            counts = [oracle.decayed_count(each) for each in held]
            expect_close(table.decayed_counts(_longs(rows)), counts, 1e-5, 1e-30)
            expect_close(
                table.gather(_longs([0, *rows])), [h.vector for h in [oracle.unknown, *held]]
            )
            assert table.refused == Counter({REASONS[self.cap.when_full]: oracle.refused})
            assert (table.evicted, table.expired) == (oracle.evicted, oracle.expired)
            assert table.rotations_early == oracle.waiting.rotations_early
            assert table.charged_bytes == self._charged
            self._check_state(table.state(), self.kinds[name])
        self._check_agreement()

    def check_some(self, keys: list[int]) -> None:
        """What is kept of these ids."""
        held = [self.oracle.held[key] for key in dict.fromkeys(keys) if key in self.oracle.held]
        rows = [each.row for each in held]
        counts = [self.oracle.decayed_count(each) for each in held]
        for table in self.tables.values():
            assert table.last_seen_ms_R.cpu()[rows].tolist() == [h.last_seen_ms for h in held]
            expect_close(table.decayed_counts(_longs(rows)), counts, 1e-5, 1e-30)
            expect_close(table.gather(_longs(rows)), [h.vector for h in held])
            assert (len(table), table.waiting) == (len(self.oracle.held), len(self.oracle.waiting))

    def settle(self) -> None:
        """Let the oracle's unknown row be the first table's, which is close to it: over tens of
        thousands of steps, which no other row sees, the rounding of float32 would add up."""
        vector_1D = next(iter(self.tables.values())).gather(_longs([0])).cpu()
        self.oracle.unknown.vector = vector_1D[0].double().numpy()

    def same(self, found: dict[str, Any]) -> Any:
        """What all tables answered alike."""
        values = list(found.values())
        for name, value in found.items():
            assert value == values[0], f"{name} differs from {next(iter(found))}"
        return values[0]

    def _check_state(self, state: dict[str, Tensor], kind: Kind) -> None:
        oracle = self.oracle
        pairs = oracle.by_row()
        held = [oracle.unknown, *(oracle.held[key] for _, key in pairs)]
        rows = [0, *(row for row, _ in pairs)]
        free = sorted(set(range(1, oracle.end)) - set(rows))
        columns = {
            name.removeprefix("rows."): tensor.cpu()
            for name, tensor in state.items()
            if name.startswith("rows.")
        }
        assert "marks" not in columns
        assert {len(column) for column in columns.values()} == {oracle.end}
        assert columns["admitted_ms"][rows[1:]].tolist() == [h.admitted_ms for h in held[1:]]
        assert columns["steps"][rows].tolist() == [h.steps for h in held]
        weights = [float(h.weight) for h in held]
        if kind.exact:
            assert columns["weight"][rows].tolist() == weights
        expect_close(columns["weight"][rows], weights, 1e-6, 0.0)
        expect_close(columns["gradient_norm"][rows], [h.gradient_norm for h in held])
        if self.slot.optimizer in ("adagrad", "adam"):
            expect_close(columns["square"][rows], [h.square for h in held])
        if self.slot.optimizer == "adam":
            expect_close(columns["moments"][rows], [h.moment for h in held])
        for name, column in columns.items():
            empty = 2**63 - 1 if name == "last_seen_ms" else 0
            assert (column[free] == empty).all(), f"free rows keep {name}"
        assert state["index.free"].tolist() == [row - 1 for row in oracle.free]
        if self.slot.ttl_seconds is not None:
            assert int(state["cursor"]) == oracle.cursor
        assert int(state["evict_cursor"]) == oracle.evict_cursor
        assert int(state["decay.landmark_ms"]) == oracle.clock.landmark_ms
        if self.slot.min_count > 1:
            for generation in ("current", "older"):
                waiting = sorted(getattr(oracle.waiting, generation).items())
                assert state[f"waiting.{generation}.keys"].tolist() == [k for k, _ in waiting]
                assert state[f"waiting.{generation}.counts"].tolist() == [n for _, n in waiting]

    def _check_agreement(self) -> None:
        """Tables of one exact backend hold the same bits, however many threads they have."""
        by_backend: dict[str, tuple[str, dict[str, Tensor]]] = {}
        for name, table in self.tables.items():
            backend, state = self.kinds[name].backend, table.state()
            if backend in by_backend and self.kinds[name].exact:
                other, expected = by_backend[backend]
                expect_same_state(state, expected, f"{name} and {other}")
            by_backend.setdefault(backend, (name, state))

    def _cut(self, whole: bool) -> dict[str, TableDelta]:
        """What each table gives out is what the oracle expects."""
        if self.failed is not None:
            self.put_back()
        version = self.oracle.take_changes()
        pairs = [p for p in self.oracle.by_row() if whole or p[1] in version.changed]
        removed = [] if whole else sorted(version.gone)
        taken = {name: table.cut(whole) for name, table in self.tables.items()}
        for delta in taken.values():
            changes = delta.changes
            found = list(zip(changes.rows_M.tolist(), changes.keys_M.tolist(), strict=True))
            assert found == [(0, RESERVED_KEY), *pairs]
            assert changes.removed_keys_T.tolist() == removed
        return taken

    # --- the cap ----------------------------------------------------------------------------

    @property
    def _charged(self) -> int:
        return self.oracle.end * row_bytes(self.slot) + waiting_bytes(self.slot)

    def _room(self) -> float:
        """Rows that new ids can have: free ones, and what the cap leaves."""
        if self.cap.max_bytes is None:
            return math.inf
        left = self.cap.max_bytes - self.others.charged_bytes - self._charged
        return len(self.oracle.free) + max(0, left // row_bytes(self.slot))

    def _check_eviction(self, evicted: list[int], batch: set[int], missing: int) -> None:
        """The first rows from the cursor on that may go and are of low importance have gone, as
        many as are missing or one in 128; fewer only if all others were looked at."""
        oracle, gone = self.oracle, set(evicted)
        if not missing:
            assert not evicted
            return
        low, high = self._threshold()
        wanted = max(missing, len(oracle.held) // 128)
        start = oracle.evict_cursor
        order = [(oracle.row_of(key) - start) % oracle.end for key in evicted]
        assert order == sorted(order)
        assert len(order) <= wanted
        last = order[-1] if len(order) == wanted else oracle.end
        oracle.evict_cursor = (start + last + 1) % oracle.end if last < oracle.end else start
        for row, key in oracle.by_row():
            may_go = self._out_of_grace(key) and key not in batch
            if key in gone:
                assert may_go
                assert oracle.importance(key) <= high, (oracle.importance(key), low, high)
            elif may_go and (row - start) % oracle.end < last:
                assert oracle.importance(key) >= low

    def _threshold(self) -> tuple[float, float]:
        """The importance that a sixteenth of the rows out of grace do not exceed, roughly: floats
        of the tables differ a little. Exact while all rows are among the 4,096 samples."""
        assert self.oracle.end <= 4096
        values = [self.oracle.importance(k) for k in self.oracle.held if self._out_of_grace(k)]
        threshold = sorted(values)[(len(values) - 1) // 16] if values else 0.0
        return threshold * (1 - 1e-5) - 1e-30, threshold * (1 + 1e-5) + 1e-30

    def _out_of_grace(self, key: int) -> bool:
        age_ms = self.oracle.clock.now_ms - self.oracle.held[key].admitted_ms
        return age_ms > round(self.slot.grace_seconds * 1000)

    def _table(self, name: str) -> EmbeddingTable:
        kind, budget = self.kinds[name], Budget(self.cap)
        table = EmbeddingTable(self.slot, SEED, kind.backend, kind.threads, budget=budget)
        self.budgets[name] = budget
        others, charged = self.others, self.others.charged_bytes
        others.charged_bytes = 0  # holders join while they hold nothing
        budget.join(others)
        others.charged_bytes = charged
        return table


def walk_of(
    kinds: dict[str, Kind], slot: dict[str, object], rows: int | None, when_full: str
) -> Walk:
    """A walk whose cap holds roughly so many rows."""
    common = {"dim": 4, "ttl_seconds": 5, "half_life_seconds": 2, "waiting_seconds": 3}
    chosen = SlotSettings.model_validate({**common, "grace_seconds": 0.4, **slot})
    max_bytes = None if rows is None else rows * row_bytes(chosen) + waiting_bytes(chosen)
    cap = CapSettings.model_validate({"max_bytes": max_bytes, "when_full": when_full})
    return Walk(chosen, kinds, cap)


def expect_same_state(found: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    """Two states are equal bit for bit."""
    assert found.keys() == expected.keys(), what
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, f"{name} of {what}"
        assert torch.equal(found[name], tensor), f"{name} of {what}"


def expect_close(
    found: Tensor, expected: Sequence[Any], rtol: float = 1e-4, atol: float = 1e-5
) -> None:
    """Numbers of a table are those of the oracle but for rounding. By default that of a hundred
    steps in float32, their sums in any order; the oracle counts in float64."""
    values = np.asarray(expected, np.float64).reshape(found.shape)
    close = np.abs(found.cpu().numpy() - values) <= atol + rtol * np.abs(values)
    assert close.all(), (found, values)


def gradients(count: int, dim: int, seed: int) -> Tensor:
    """Gradients whose sums and squares are exact in float32: norms tie on every backend alike."""
    draw = random.Random(seed)
    return torch.tensor([[draw.randint(-8, 8) / 8 for _ in range(dim)] for _ in range(count)]).view(
        count, dim
    )


def _longs(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def _pairs(removed: Any) -> list[tuple[int, int]]:
    return list(zip(removed.keys_M.tolist(), removed.rows_M.tolist(), strict=True))


def _flat(admitted: Any) -> tuple[Tensor, ...]:
    return admitted.rows_N, admitted.new_rows_M, admitted.evicted.keys_M, admitted.evicted.rows_M
