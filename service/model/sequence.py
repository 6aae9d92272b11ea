"""A sequence model over item ids alone, as the published tables were measured with.

Source: the public research code of Actions Speak Louder than Words (arXiv 2402.17152): an item's
embedding times the root of the width plus a learned position, layers, unit length.

Shapes: B users, T events, D width.
"""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from kernels.attention import Events
from service.model.hstu import history_rows
from service.model.layer import Form, Layer, dropped


class SequenceEncoder(nn.Module):
    """Item ids in, unit vectors out: what every position says about the next item.

    items: largest id; id 0 is padding with a vector of zeros. length: N, and the longest history.
    dropout: on the input and on what each layer's output matrix sees, when training. time: whether
    layers have a table for gaps of time, if their form has a relative bias.
    """

    def __init__(
        self, items: int, dim: int, layers: int, heads: int, qk_width: int, v_width: int,
        length: int, form: Form, dropout: float = 0.0, time: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.items = nn.Embedding(items + 1, dim, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(length, dim))
        form = replace(form, time=time and form.time)
        self.layers = nn.ModuleList(
            Layer(form, dim, heads, qk_width, v_width, length, dropout=dropout)
            for _ in range(layers)
        )
        self.scale, self.dropout, self.reads_time = dim**0.5, dropout, form.bias and form.time
        with torch.no_grad():
            _truncated_normal(self.items.weight[1:], 0.02)
            _truncated_normal(self.positions, dim**-0.5)

    def forward(
        self, item_T: Tensor, offsets: Tensor, next_at_T: Tensor | None = None,
        at_T: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Unit vectors [T, D] of packed histories, the oldest event first.

        offsets: int64 [B+1], events of user b are offsets[b] .. offsets[b+1]-1. at_T, next_at_T:
        int64 milliseconds, the time of each event and of the one after it, which is to be
        predicted; needed where layers read time.
        """
        if self.reads_time and (at_T is None or next_at_T is None):
            raise ValueError(
                "the layers read time: pass at_T and next_at_T, or build it with time=False"
            )
        events = Events(offsets, torch.zeros_like(item_T) if at_T is None else at_T)
        rows = history_rows(events)
        if next_at_T is not None:
            rows = replace(rows, at_ms=next_at_T)
        x_TD = self.items(item_T) * self.scale + self.positions[rows.position]
        if self.training:
            x_TD = dropped(x_TD, self.dropout)
        for layer in cast(list[Layer], list(self.layers)):
            x_TD, _ = layer.history(x_TD, rows, events)
        return normalize(x_TD, eps=1e-6)

    def item_vectors(self) -> Tensor:
        """Unit vectors of all items, [items + 1, D]; of the padding zeros."""
        return normalize(self.items.weight, eps=1e-6)


def _truncated_normal(table: Tensor, deviation: float) -> None:
    nn.init.trunc_normal_(table, std=deviation, a=-2 * deviation, b=2 * deviation)
