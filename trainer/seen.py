"""Which items of a shared set each query row has in its visible history.

Shapes: E visible events of a batch, Q query rows, N rows asked about, S items of the set.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from service.histories.rings import Longs
from trainer.examples import Batch


def seen_mask(batch: Batch, item_E: Longs, rows_S: Longs, asked_N: Longs) -> Tensor:
    """1.0 where a row's visible history holds the item, [N, S].

    item_E: table row of each visible event's item; rows_S: table rows of the set, ascending;
    asked_N: which query rows. The unknown row 0 stands for no item and is never seen.
    """
    place_E = np.minimum(np.searchsorted(rows_S, item_E), len(rows_S) - 1)
    found_E = (rows_S[place_E] == item_E) & (item_E > 0)
    example_Q = np.repeat(
        np.arange(len(batch.queries.offsets) - 1), batch.queries.offsets.diff().numpy()
    )
    mask_NS = np.zeros((len(asked_N), len(rows_S)), np.float32)
    _fill(
        asked_N, example_Q, batch.queries.limit.numpy(), batch.seen.events.offsets.numpy(),
        np.where(found_E, place_E, -1), mask_NS,
    )  # fmt: skip
    return torch.from_numpy(mask_NS)


@njit(cache=True, nogil=True)
def _fill(asked, example, limit, event_ends, column, mask):
    for n in range(len(asked)):
        first = event_ends[example[asked[n]]]
        for t in range(first, first + limit[asked[n]]):
            if column[t] >= 0:
                mask[n, column[t]] = 1.0
