"""Where the items of a step stand: at a row of the table, or, without a row, by their categories.

An item without a row reads the unknown row. If it has categories they speak for it, as a server has
them speak for items that the trainer has not met; two such items are two places.

Shapes: N keys asked for, V items without a row that have categories, U distinct places.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from service.store import EmbeddingTable
from trainer.categories import ItemCategories


class Places(NamedTuple):
    """One number per key: its row, or -1-v for the v-th of the items without one that have
    categories, by key. What has a number below 1 reads row 0."""

    place_N: Tensor
    keys_V: Tensor

    @classmethod
    def of(cls, keys_N: Tensor, items: EmbeddingTable, categories: ItemCategories) -> "Places":
        """Find every key. Numbers depend on nothing but the keys and what is known of them."""
        rows_N, none_V = items.lookup(keys_N), keys_N[:0]
        if not categories.known:
            return cls(rows_N, none_V)
        unknown_A = (rows_N == 0).nonzero().squeeze(1)
        has_A = categories.codes(keys_N[unknown_A]).any(1).to(rows_N.device)
        speaking_A = unknown_A[has_A]
        keys_V, number_A = keys_N[speaking_A].unique(return_inverse=True)
        rows_N[speaking_A] = -1 - number_A
        return cls(rows_N, keys_V)

    def codes(self, places_U: Tensor, items: EmbeddingTable, categories: ItemCategories) -> Tensor:
        """Codes [U, K] of the categories of these places; K is 0 while no category is known."""
        if not categories.known:
            return torch.zeros(len(places_U), 0, dtype=torch.int32, device=places_U.device)
        keys_U = items.keys_of(places_U.clamp(min=0))
        without_U = places_U < 0
        keys_U[without_U] = self.keys_V[-1 - places_U[without_U]]
        return categories.codes(keys_U).to(places_U.device)
