"""All that the trainer is between two blocks, to and from a checkpoint.

Bit-identity: a trainer restored from a checkpoint continues exactly like the one that wrote it.
Events of histories travel apart, as segments that are appended to.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from service.actions import RESERVED_KEY, Id
from service.errors import ModelMismatch
from service.histories.local import LocalHistories
from service.histories.segments import Segment
from service.metrics import resident_bytes
from service.store import Budget, EmbeddingTable, TableDelta
from service.store.ids import OriginalIds
from service.versions import RowIds
from trainer.joining import Joiner
from trainer.learner import Learner

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class StateDelta:
    """What has changed since the cut before, copied aside: M rows of the item table with what is
    kept beside them, and the small parts whole."""

    items: TableDelta
    ids: RowIds
    """Original ids of the changed rows, [M]."""
    popularity: Tensors
    categories: Tensors
    """Items whose categories changed, with a row or without."""
    codes_MK: Tensor
    """Codes of the changed rows' categories."""
    parts: dict[str, Tensors]

    def tensors(self) -> Tensors:
        """As a checkpoint holds it: what `trainer.folding.folded` takes."""
        kept = {
            "items": self.items.tensors,
            "ids": self.ids.to_tensors(),
            "popularity": self.popularity,
            "categories": self.categories,
        }
        return named({**self.parts, **kept})


@dataclass
class State:
    """What is learned and counted. `counters` are exact over the whole life of the stream."""

    learner: Learner
    histories: LocalHistories
    joiner: Joiner
    ids: OriginalIds
    budget: Budget
    block: int = 0
    counters: Counter[str] = field(default_factory=Counter)

    @property
    def items(self) -> EmbeddingTable:
        """The item slot's table."""
        return self.learner.items

    @property
    def item_parts(self) -> dict[str, int]:
        """Bytes in use for item rows and everything kept beside them, by part."""
        learner = self.learner
        return {
            **self.items.bytes_by_part(),
            "ids": self.ids.nbytes,
            "popularity": learner.popularity.nbytes,
            "negatives": learner.pool.nbytes,
            "categories": learner.categories.nbytes,
        }

    @property
    def item_bytes(self) -> int:
        """The sum of `item_parts`."""
        return sum(self.item_parts.values())

    def sizes(self) -> dict[str, float]:
        """Counts, and bytes in use, of all that grows: by the names that manifests carry."""
        cap = self.budget.max_bytes
        return {
            "store.item.rows": len(self.items),
            "store.item.waiting": self.items.waiting,
            **{f"store.item.bytes.{part}": size for part, size in self.item_parts.items()},
            "histories.users": len(self.histories),
            "histories.events": self.histories.live_events,
            "histories.bytes.rings": self.histories.nbytes,
            "memory.charged_bytes": self.budget.charged,
            **({} if cap is None else {"memory.max_bytes": cap}),
            "memory.resident_bytes": resident_bytes(),
        }

    def tensors(self) -> Tensors:
        """Copies of everything but the events of histories, by name."""
        items = self.items.state()
        keys_R = torch.cat([torch.tensor([RESERVED_KEY]), items["index.keys"]])
        kept = {
            "items": items,
            "ids": self.ids_of(keys_R).to_tensors(),
            "popularity": self.learner.popularity.state(),
            "categories": self.learner.categories.state(),
        }
        return named({**self.small_parts(), **kept})

    def cut(self, whole: bool = False) -> StateDelta:
        """Copy aside what has changed since the last cut, or (`whole`) everything."""
        items = self.items.cut(whole)
        changes = items.changes
        return StateDelta(
            items,
            self.ids_of(changes.keys_M),
            self.learner.popularity.cut(changes.rows_M),
            self.learner.categories.cut(whole),
            self.learner.categories.codes(changes.keys_M),
            self.small_parts(),
        )

    def put_back(self, delta: StateDelta) -> None:
        """The version made of this delta failed: what it holds counts as changed again."""
        self.items.put_back(delta.items.changes)
        self.learner.categories.put_back(delta.categories)

    def ids_of(self, keys_M: Tensor) -> RowIds:
        """The original ids of rows by their keys; of free rows and the unknown one the keys."""
        return RowIds.from_list([self._id_of(key) for key in keys_M.tolist()])

    def _id_of(self, key: int) -> Id:
        owner = self.ids.get(key)
        return key if owner is None else owner

    def small_parts(self) -> dict[str, Tensors]:
        """Copies of everything but item rows, what is kept beside them and histories' events."""
        learner = self.learner
        weights = learner.network.state_dict()
        return {
            "network": {name: _copied(weight.detach()) for name, weight in weights.items()},
            "optimizer": _optimizer_state(learner.optimizer),
            "pool": learner.pool.state(),
            "positions": learner.positions.state(),
            "moments": {} if learner.moments is None else learner.moments.state(),
            "calibration": learner.calibrator.state(),
            "information": {} if learner.information is None else learner.information.state(),
            "joiner": self.joiner.state(),
            "histories": self.histories.state(),
            "collisions": {"ids": torch.tensor(self.ids.collisions)},
        }

    def load(
        self,
        tensors: Tensors,
        segments: Iterable[Segment],
        block: int,
        counters: dict[str, int | float],
    ) -> None:
        """Become the state that returned `tensors` when histories had gained all `segments`.

        All but the joiner, which is made again from the streams (`trainer.joining.rereading`).
        Raises ModelMismatch for another model's.
        """
        learner = self.learner
        try:
            learner.network.load_state_dict(part_of(tensors, "network"))
        except RuntimeError as error:
            raise ModelMismatch(f"the checkpoint is of another model: {error}") from None
        _load_optimizer(learner.optimizer, part_of(tensors, "optimizer"))
        learner.items.load(part_of(tensors, "items"))
        learner.popularity.load(part_of(tensors, "popularity"))
        learner.pool.load(part_of(tensors, "pool"))
        learner.categories.load(part_of(tensors, "categories"))
        learner.positions.load(part_of(tensors, "positions"))
        if learner.moments is not None:
            learner.moments.load(part_of(tensors, "moments"))
        learner.calibrator.load(part_of(tensors, "calibration"))
        if learner.information is not None:
            learner.information.load(part_of(tensors, "information"))
        self._load_ids(part_of(tensors, "ids"), int(tensors["collisions/ids"]))
        self.histories.load(part_of(tensors, "histories"), segments)
        self.block = block
        self.counters = Counter({name: int(value) for name, value in counters.items()})

    def _load_ids(self, tensors: Tensors, collisions: int) -> None:
        rows_M = self.items.live_rows()
        keys_M, ids = self.items.keys_of(rows_M).cpu(), RowIds.from_tensors(tensors)
        self.ids.put(keys_M, list(ids.take(rows_M.cpu())))
        self.ids.collisions = collisions


def named(parts: dict[str, Tensors]) -> Tensors:
    """The tensors of several parts in one dict."""
    return {f"{part}/{n}": t for part, tensors in parts.items() for n, t in tensors.items()}


def part_of(tensors: Mapping[str, Tensor], part: str) -> Tensors:
    """One of the parts that `named` put together."""
    prefix = f"{part}/"
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _copied(tensor: Tensor) -> Tensor:
    """A copy on the CPU."""
    return tensor.to("cpu", copy=True)


def _optimizer_state(optimizer: torch.optim.Optimizer) -> Tensors:
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {f"{i}.{name}": _copied(t) for i, one in state.items() for name, t in one.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, kind = name.split(".", 1)
        state.setdefault(int(number), {})[kind] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
