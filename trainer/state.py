"""All that the trainer is between two blocks, to and from a checkpoint.

Bit-identity: a trainer restored from a checkpoint continues exactly like the one that wrote it.
Events of histories travel apart, as segments that are appended to.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from service.errors import ModelMismatch
from service.histories.local import LocalHistories
from service.histories.segments import Segment
from service.metrics import resident_bytes
from service.store import Budget, EmbeddingTable
from service.store.ids import OriginalIds
from trainer.joiner import Joiner
from trainer.learner import Learner

Tensors = dict[str, Tensor]


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
        kept = {"items": self.items.state(), "ids": self.ids.state()}
        return named({**self.small_parts(), **kept})

    def small_parts(self) -> dict[str, Tensors]:
        """Copies of everything but item rows, original ids and the events of histories."""
        learner = self.learner
        weights = learner.network.state_dict()
        return {
            "network": {name: _copied(weight.detach()) for name, weight in weights.items()},
            "optimizer": _optimizer_state(learner.optimizer),
            "popularity": learner.popularity.state(),
            "pool": learner.pool.state(),
            "joiner": self.joiner.state(),
            "histories": self.histories.state(),
        }

    def load(
        self,
        tensors: Tensors,
        segments: Iterable[Segment],
        block: int,
        counters: dict[str, int | float],
    ) -> None:
        """Become the state that returned `tensors` when histories had gained all `segments`.

        Raises ModelMismatch for another model's.
        """
        learner = self.learner
        try:
            learner.network.load_state_dict(_part(tensors, "network"))
        except RuntimeError as error:
            raise ModelMismatch(f"the checkpoint is of another model: {error}") from None
        _load_optimizer(learner.optimizer, _part(tensors, "optimizer"))
        learner.items.load(_part(tensors, "items"))
        learner.popularity.load(_part(tensors, "popularity"))
        learner.pool.load(_part(tensors, "pool"))
        self.joiner.load(_part(tensors, "joiner"))
        self.ids.load(_part(tensors, "ids"))
        self.histories.load(_part(tensors, "histories"), segments)
        self.block = block
        self.counters = Counter({name: int(value) for name, value in counters.items()})


def named(parts: dict[str, Tensors]) -> Tensors:
    """The tensors of several parts in one dict."""
    return {f"{part}/{n}": t for part, tensors in parts.items() for n, t in tensors.items()}


def _part(tensors: Tensors, part: str) -> Tensors:
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
