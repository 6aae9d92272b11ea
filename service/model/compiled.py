"""Asking in float32: all layers of a request in one call outside the interpreter.

Results are the same bit for bit whatever candidates and requests are asked together.

Shapes: as in `service.model.asking`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.attention.buckets import time_bucket_of
from kernels.crew import Crew
from kernels.stack import Kept, LayerWeights, Stack, heads
from service.model.asking import Answer, Asked, Floats, Seen, require_ours, window_of
from service.model.layer import Layer
from service.model.network import Network
from service.model.tokens import HOUR_MS

EPS = np.float32(1e-6)
"""Least length that a user's vector is divided by."""


@dataclass(frozen=True, eq=False)
class KeptCompiled:
    """One user's history on the model's side."""

    seen: Seen
    stack: Kept
    last_D: Tensor | None
    """Token of the last event; None without events."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors and arrays."""
        last = 0 if self.last_D is None else self.last_D.nbytes
        return self.stack.nbytes + last + self.seen.nbytes


class CompiledAsker:
    """As `service.model.asking.Asker` with float32. Raises ValueError for a network of another form
    than ours."""

    extends = True

    def __init__(self, network: Network, crew: Crew | None = None) -> None:
        """crew: threads that a request's candidates are dealt to."""
        require_ours(network)
        self.network = network
        settings, layers = network.settings, network.hstu._stack()
        self._stack = Stack(
            [_weights(layer) for layer in layers], settings.heads, settings.qk_width,
            settings.v_width, settings.window, crew=crew,
        )  # fmt: skip
        tokens = network.tokens
        self._scale, self._tables = np.float32(tokens.scale), _Tables(*(
            getattr(tokens, name).detach().numpy() for name in _Tables._fields
        ))  # fmt: skip

    def read(
        self, seen: Seen, vectors_ND: Tensor, kept: KeptCompiled | None = None
    ) -> KeptCompiled:
        """Read a history, or what it has beyond the one that is kept already."""
        first = 0 if kept is None else len(kept.seen)
        new, before = seen.since(first), None if kept is None else kept.stack
        x_ND = self.network.tokens.history(window_of(new), vectors_ND)
        stack = self._stack.read(x_ND, np.ascontiguousarray(seen.at_ms_T), before)
        last_D = x_ND[-1].clone() if len(new) else None if kept is None else kept.last_D
        return KeptCompiled(seen, stack, last_D)

    def ask(
        self, asked: Sequence[Asked[KeptCompiled]], weighed: Sequence[Tensor] | None = None
    ) -> list[Answer]:
        """Answer requests. weighed: as for `Asker.ask`."""
        weights = [None] * len(asked) if weighed is None else weighed
        return [self._answer(one, its) for one, its in zip(asked, weights, strict=True)]

    def _answer(self, one: Asked[KeptCompiled], weighed_RT: Tensor | None) -> Answer:
        x_RD = torch.from_numpy(self._tokens_of(one))
        x_RD = self._stack.ask(x_RD, one.kept.stack, one.at_ms, weighed_RT=weighed_RT)
        actions = self.network.actions
        inputs_CD, logits_CA = heads(x_RD[1:], actions.weight, actions.bias)
        user_D = x_RD[0].numpy()
        length = max(np.sqrt((user_D * user_D).sum()), EPS)
        return Answer(torch.from_numpy(user_D / length), logits_CA, inputs_CD)

    def _tokens_of(self, one: Asked[KeptCompiled]) -> Floats:
        """Tokens of the query and of the candidates, [1 + C, D], as `Tokens` makes them."""
        tables, hour, kept = self._tables, one.at_ms // HOUR_MS % 24, one.kept
        if kept.last_D is None:
            query_D = tables.start[0] + tables.ask_hour[hour]
        else:
            gap = time_bucket_of(one.at_ms - int(kept.seen.at_ms_T[-1]))
            query_D = kept.last_D.numpy() + tables.ask[0] + tables.ask_gap[gap]
            query_D = query_D + tables.ask_hour[hour]
        asking_D = tables.pending[0] + tables.ask_hour[hour]
        tokens: Floats = _rows(query_D, one.items_CD.numpy(), self._scale, asking_D)
        return tokens


class _Tables(NamedTuple):
    """Those of `Tokens` that asking rows are made of."""

    start: Floats
    ask: Floats
    ask_gap: Floats
    ask_hour: Floats
    pending: Floats


@njit(cache=True, nogil=True)
def _rows(query_D: Any, items_CD: Any, scale: Any, asking_D: Any) -> Any:
    """The query, then the items times the scale plus what all candidates have."""
    count, dim = items_CD.shape
    x_RD = np.empty((1 + count, dim), np.float32)
    x_RD[0] = query_D
    for c in range(count):
        for d in range(dim):
            x_RD[1 + c, d] = items_CD[c, d] * scale + asking_D[d]
    return x_RD


def _weights(layer: Layer) -> LayerWeights:
    near, when, own = layer.distance_bias, layer.time_bias, layer.self_bias
    assert near is not None
    assert when is not None
    assert own is not None
    return LayerWeights(
        layer.project.weight, layer.project.bias, layer.output.weight, layer.output.bias,
        near, when, own,
    )  # fmt: skip
