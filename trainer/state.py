"""All that the trainer is between two blocks, to and from a checkpoint.

Bit-identity: a trainer restored from a checkpoint continues exactly like the one that wrote it.
Histories travel apart, as segments that are appended to.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from service.errors import ModelMismatch
from service.histories.local import LocalHistories
from service.store import EmbeddingTable, OriginalIds
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
    block: int = 0
    counters: Counter[str] = field(default_factory=Counter)

    @property
    def items(self) -> EmbeddingTable:
        """The item slot's table."""
        return self.learner.items

    @property
    def nbytes(self) -> int:
        """Bytes of item rows with everything kept beside them (histories not counted)."""
        learner = self.learner
        return self.items.nbytes + self.ids.nbytes + learner.popularity.nbytes + learner.pool.nbytes

    def tensors(self) -> Tensors:
        """Copies of everything but histories, by name."""
        learner = self.learner
        parts = {
            "network": {n: p.detach().clone() for n, p in learner.network.state_dict().items()},
            "optimizer": _optimizer_state(learner.optimizer),
            "items": learner.items.state(),
            "popularity": learner.popularity.state(),
            "pool": learner.pool.state(),
            "joiner": self.joiner.state(),
            "ids": self.ids.state(),
        }
        return {f"{part}/{n}": t for part, tensors in parts.items() for n, t in tensors.items()}

    def load(self, tensors: Tensors, block: int, counters: dict[str, int | float]) -> None:
        """Become the state that returned `tensors`. Raises ModelMismatch for another model's."""
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
        self.block = block
        self.counters = Counter({name: int(value) for name, value in counters.items()})


def _part(tensors: Tensors, part: str) -> Tensors:
    prefix = f"{part}/"
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _optimizer_state(optimizer: torch.optim.Optimizer) -> Tensors:
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {f"{i}.{name}": t.clone() for i, one in state.items() for name, t in one.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, kind = name.split(".", 1)
        state.setdefault(int(number), {})[kind] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
