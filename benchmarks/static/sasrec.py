"""SASRec, the control of the static tables.

Source: Self-Attentive Sequential Recommendation (Kang and McAuley, ICDM 2018), section III, with
the loss and the unit vectors of the HSTU tables.

Shapes: T events, B users of a group, L longest of the group, D width, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, normalize, scaled_dot_product_attention

GROUPS = 4
"""Into so many paddings a batch is split, shortest users first: little is wasted on any."""


class SASRec(nn.Module):
    """Item and position embeddings, causal softmax attention, two-layer feed-forward."""

    def __init__(
        self, items: int, dim: int, layers: int, heads: int, length: int, dropout: float
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(items + 1, dim)
        self.positions = nn.Embedding(length, dim)
        nn.init.trunc_normal_(self.items.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.trunc_normal_(self.positions.weight, std=dim**-0.5)
        self.blocks = nn.ModuleList(_Block(dim, heads, dropout) for _ in range(layers))
        self.dropout = dropout

    def forward(self, item_T: Tensor, offsets: Tensor) -> Tensor:
        """Unit vectors [T, D] of users after each of their events."""
        length_B = offsets.diff()
        group = -(-len(length_B) // GROUPS)
        parts = [
            self._group(item_T, offsets[first : first + group + 1])
            for first in range(0, len(length_B), group)
        ]
        return normalize(torch.cat(parts), dim=-1, eps=1e-6)

    def item_vectors(self) -> Tensor:
        """Unit vectors of all items; row 0 is no item."""
        return normalize(self.items.weight, dim=-1, eps=1e-6)

    def _group(self, item_T: Tensor, offsets: Tensor) -> Tensor:
        length_B = offsets.diff()
        position_L = torch.arange(int(length_B.max()))
        real_BL = position_L < length_B[:, None]
        place_BL = (offsets[:-1, None] + position_L).clamp(max=len(item_T) - 1)
        x_BLD = self.items(item_T[place_BL]) * math.sqrt(self.items.embedding_dim)
        x_BLD = dropout(x_BLD + self.positions(position_L), self.dropout, self.training)
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return x_BLD[real_BL]


class _Block(nn.Module):
    """Only the queries are normalised before attention, as in the original."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.mix, self.inner, self.outer = (nn.Linear(dim, dim) for _ in range(3))
        self.heads, self.dropout = heads, dropout
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-8) for _ in range(2))

    def forward(self, x_BLD: Tensor) -> Tensor:
        asking = self.norms[0](x_BLD)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(asking), *self.key_value(x_BLD).chunk(2, -1))
        )
        share = self.dropout if self.training else 0.0
        attended = scaled_dot_product_attention(q, k, v, dropout_p=share, is_causal=True)
        y_BLD = self.norms[1](asking + self.mix(attended.transpose(1, 2).flatten(2)))
        inner = self._drop(self.inner(y_BLD).relu())
        return y_BLD + self._drop(self.outer(inner))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)
