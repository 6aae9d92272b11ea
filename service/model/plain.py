"""Asking a network of any form, by its own layers.

The published forms of a layer and softmax weights are there to be compared with; a server answers
by them as exactly. What was read of a history is of use until the next event: it is not extended.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.attention import Rows
from service.model.asking import Answer, Asked, Seen, window_of
from service.model.network import Encoded, Network


@dataclass(frozen=True, eq=False)
class KeptPlain:
    """One user's history as the network encoded it."""

    seen: Seen
    encoded: Encoded

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors and arrays."""
        one = self.encoded
        last = [] if one.last_TD is None else [one.last_TD]
        layers = [tensor for layer in one.seen for tensor in (layer.k, layer.v)]
        return sum(tensor.nbytes for tensor in (one.x_TD, *last, *layers)) + self.seen.nbytes


class PlainAsker:
    """As `service.model.asking.Asks`, one request after the other."""

    extends = False

    def __init__(self, network: Network) -> None:
        self.network = network

    def read(self, seen: Seen, vectors_ND: Tensor, kept: KeptPlain | None = None) -> KeptPlain:
        """Read a whole history; what is kept already does not help."""
        return KeptPlain(seen, self.network.encode(window_of(seen), vectors_ND))

    def ask(self, asked: Sequence[Asked[KeptPlain]]) -> list[Answer]:
        """Answer requests."""
        return [self._answer(one) for one in asked]

    def _answer(self, one: Asked[KeptPlain]) -> Answer:
        encoded, seen, candidates = one.kept.encoded, len(one.kept.seen), len(one.items_CD)
        user_D = self.network.users(encoded, _asking(1, seen, one.at_ms))[0]
        rows = _asking(candidates, seen, one.at_ms)
        places = torch.arange(candidates)
        inputs_CD = self.network.action_inputs(encoded, places, one.items_CD, rows)
        return Answer(user_D, self.network.actions(inputs_CD), inputs_CD)


def _asking(rows: int, seen: int, at_ms: int) -> Rows:
    limit_R = torch.full((rows,), seen)
    return Rows(torch.tensor([0, rows]), limit_R, limit_R, torch.full((rows,), at_ms))
