"""What categories add to an item's vector: the mean of their learned vectors.

An item that nobody has acted on yet has a vector all the same: the unknown row and its categories.
All start at zero, so a stream without items is learned as if there were none.

Shapes: G codes of categories, N items, K places for codes, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from kernels.key_index import RESERVED_KEY

SLOTS = 8
"""Categories of an item that speak in its vector: the first ones. Filters know all."""
NOTHING, OTHER, FIRST = 0, 1, 2
"""Codes: of an unused place, of every category beyond the limit, of the first one named."""


class Categories(nn.Module):
    """A vector for each of the first `most` categories, and one that all others share."""

    keys: Tensor
    """int64 [G]: the key of each code's category, RESERVED_KEY where there is none yet."""

    def __init__(self, most: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(FIRST + most, dim))
        self.register_buffer("keys", torch.full((FIRST + most,), RESERVED_KEY))

    def forward(self, own_ND: Tensor, codes_NK: Tensor) -> Tensor:
        """Items' vectors [N, D]: their own and the mean of their categories'.

        codes_NK: int32, NOTHING where an item has fewer than K; K is 0 where no item has any.
        """
        if not codes_NK.shape[1]:
            return own_ND
        return own_ND + embedding_bag(codes_NK, self.weight, mode="mean", padding_idx=NOTHING)

    @property
    def full(self) -> bool:
        """Whether a category that comes now is one of the others."""
        return bool((self.keys[FIRST:] != RESERVED_KEY).all())
