"""The best items of the whole catalogue for a user, by exact search.

Shapes: R rows of the item slot, E excluded items, K items found.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from service.actions import Id
from service.histories.local import Histories
from service.histories.rings import Longs
from service.model.ranker import Ranker


@torch.inference_mode()
def best_rows(
    ranker: Ranker, history: Histories, at_ms: int, count: int, excluded_E: Longs
) -> Tensor:
    """Rows [K] of the `count` items with the highest next-item logit, best first.

    Every item's logit is computed (one matrix-vector product); the unknown row and excluded items
    are masked before the selection, so K is smaller than `count` only when items run out.
    """
    logit_R = ranker.next_items(history, at_ms)
    logit_R[0] = -torch.inf
    logit_R[ranker.rows(excluded_E)] = -torch.inf
    masked = int(logit_R.isneginf().sum())
    return logit_R.topk(min(count, len(logit_R) - masked)).indices


def ids_of(ranker: Ranker, rows_K: Tensor) -> list[Id]:
    """The original ids of item rows."""
    ids: Sequence[Id] = ranker.items.ids or ranker.items.keys_R.tolist()
    return [ids[row] for row in rows_K.tolist()]


def keys_of_rows(ranker: Ranker, rows_K: Tensor) -> Longs:
    """The 64-bit keys of item rows."""
    keys_K: Longs = ranker.items.keys_R[rows_K].numpy()
    return np.ascontiguousarray(keys_K)
