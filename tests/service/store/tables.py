"""Short words for tests of tables."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.row_init import initial_rows
from service.store import Budget, EmbeddingTable
from service.store.budget import row_bytes, waiting_bytes
from service.store.settings import CapSettings, SlotSettings

FOREVER_MS = 2**63 - 1
DIM, SEED = 4, 7


@dataclass
class Other:
    """Somebody else who holds memory on the same budget."""

    charged_bytes: int = 0


def longs(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def at(count: int, ms: int = 1000) -> Tensor:
    return torch.full((count,), ms, dtype=torch.int64)


def table(
    backend: str = "numba", rows: int | None = None, when_full: str = "evict", **settings: object
) -> EmbeddingTable:
    """A table of narrow rows; `rows` ids and no more fit into its budget."""
    slot = SlotSettings.model_validate({"dim": DIM, **settings})
    return EmbeddingTable(slot, SEED, backend, budget=budget_for(slot, rows, when_full))


def budget_for(slot: SlotSettings, rows: int | None, when_full: str = "evict") -> Budget:
    """A budget that holds one table with so many ids, and its unknown row."""
    limit = None if rows is None else (rows + 1) * row_bytes(slot) + waiting_bytes(slot)
    return Budget(CapSettings.model_validate({"max_bytes": limit, "when_full": when_full}))


def admit(store: EmbeddingTable, *keys: int, ms: int = 1000) -> list[int]:
    rows: list[int] = store.admit(longs(*keys), at(len(keys), ms)).rows_N.tolist()
    return rows


def learn(store: EmbeddingTable, gradients: dict[int, float]) -> None:
    """One step for each key, with a gradient of equal components."""
    rows_N = store.lookup(longs(*gradients))
    store.update(rows_N, torch.tensor(list(gradients.values())).unsqueeze(1).expand(-1, DIM))


def fresh(key: int) -> Tensor:
    """The vector of an id never seen."""
    return initial_rows(longs(key), DIM, SEED, SlotSettings().init_scale)[0]


def same(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states are equal bit for bit, and of the same types."""
    return state.keys() == other.keys() and all(
        state[n].dtype == other[n].dtype and torch.equal(state[n], other[n]) for n in state
    )
