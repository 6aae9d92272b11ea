"""The models of the static tables at their published shapes.

Source of the shapes: the public code of Actions Speak Louder than Words (arXiv 2402.17152) for
MovieLens-1M; see docs/static.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from benchmarks.static.sasrec import SASRec
from service.model.layer import FORMS
from service.model.sequence import SequenceEncoder

LENGTH = 200
"""Events that a model reads."""
PADDED = LENGTH + 11
"""N of the public code: what its attention divides by."""
DIM = 50
DROPOUT = 0.2


class Encoder(Protocol):
    """What the harness asks of a model; it is a torch module besides."""

    def __call__(self, item_T: Tensor, offsets: Tensor) -> Tensor:
        """Unit vectors [T, D] of users after each of their events, packed."""

    def item_vectors(self) -> Tensor:
        """Unit vectors [I + 1, D] of all items; row 0 is no item."""

    def train(self, mode: bool = True) -> nn.Module:
        """Dropout on or off."""

    def eval(self) -> nn.Module:
        """Dropout off."""


@dataclass(frozen=True)
class Shape:
    """Layers, heads, and the width of a head's queries, keys and values."""

    layers: int
    heads: int
    width: int


SHAPES = {"hstu": Shape(2, 1, 50), "hstu-large": Shape(8, 2, 25), "sasrec": Shape(2, 1, 50)}


def built(name: str, items: int) -> nn.Module:
    """A fresh model, an `Encoder`. HSTU is the research form with positional bias alone."""
    shape = SHAPES[name]
    if name == "sasrec":
        return SASRec(items, DIM, shape.layers, shape.heads, LENGTH, DROPOUT)
    return SequenceEncoder(
        items, DIM, shape.layers, shape.heads, shape.width, shape.width, PADDED,
        FORMS["research"], dropout=DROPOUT, time=False,
    )  # fmt: skip
