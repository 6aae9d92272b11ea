"""The best items of the whole catalogue for a user, by exact search.

Shapes: R rows of the item slot, E excluded items, K items found.
"""

import torch
from torch import Tensor

from service.histories.local import Histories
from service.histories.rings import Longs
from service.model.ranker import Ranker


@torch.inference_mode()
def best_rows(
    ranker: Ranker, history: Histories, at_ms: int, count: int, excluded_E: Longs
) -> Tensor:
    """Rows [K] of the `count` items with the highest next-item logit, best first.

    Every item's logit is computed (one matrix-vector product); the unknown row and excluded items
    are masked before the selection as rows without an item are, so K is smaller than `count` only
    when items run out.
    """
    logit_R = ranker.next_items(history, at_ms)
    logit_R[0] = -torch.inf
    logit_R[ranker.rows(excluded_E)] = -torch.inf
    masked = int(logit_R.isneginf().sum())
    return logit_R.topk(min(count, len(logit_R) - masked)).indices
