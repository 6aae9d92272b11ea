"""Which items of a shared set each query row has in its visible history.

Shapes: B examples, E visible events of a batch, Q query rows, N rows asked about, S items of the
set. One loop on the CPU, torch elsewhere.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from trainer.examples import Batch


def seen_mask(batch: Batch, item_E: Tensor, rows_S: Tensor, asked_N: Tensor) -> Tensor:
    """1.0 where a row's visible history holds the item, [N, S].

    item_E: table row of each visible event's item; rows_S: table rows of the set, ascending;
    asked_N: which query rows. The unknown row 0 stands for no item and is never seen.
    """
    place_E = torch.searchsorted(rows_S, item_E).clamp_(max=len(rows_S) - 1)
    found_E = (rows_S[place_E] == item_E) & (item_E > 0)
    make = _by_loop if item_E.is_cpu else by_first_place
    return make(batch, torch.where(found_E, place_E, -1), asked_N, len(rows_S))


def by_first_place(batch: Batch, column_E: Tensor, asked_N: Tensor, columns: int) -> Tensor:
    """The mask where each event has a column (-1: none): a row sees an item if its limit is above
    the place where the item first stands in its example. Nothing is read back."""
    ends, places = batch.seen.events.offsets, torch.arange(len(column_E), device=column_E.device)
    example_E = torch.searchsorted(ends, places, right=True) - 1
    # One column more takes the events that have none.
    first_BS = torch.full(
        (len(ends) - 1, columns + 1), torch.iinfo(torch.int64).max, device=column_E.device
    )
    cell_E = example_E * (columns + 1) + column_E.remainder(columns + 1)
    first_BS.view(-1).scatter_reduce_(0, cell_E, places - ends[example_E], "amin")
    example_N = torch.searchsorted(batch.queries.offsets, asked_N, right=True) - 1
    limit_N = batch.queries.limit[asked_N]
    return (first_BS[:, :columns][example_N] < limit_N[:, None]).float()


def _by_loop(batch: Batch, column_E: Tensor, asked_N: Tensor, columns: int) -> Tensor:
    queries = batch.queries.offsets.numpy()
    example_Q = np.repeat(np.arange(len(queries) - 1), np.diff(queries))
    mask_NS = np.zeros((len(asked_N), columns), np.float32)
    _fill(
        asked_N.numpy(), example_Q, batch.queries.limit.numpy(), batch.seen.events.offsets.numpy(),
        column_E.numpy(), mask_NS,
    )  # fmt: skip
    return torch.from_numpy(mask_NS)


@njit(cache=True, nogil=True)
def _fill(asked, example, limit, event_ends, column, mask):
    for n in range(len(asked)):
        first = event_ends[example[asked[n]]]
        for t in range(first, first + limit[asked[n]]):
            if column[t] >= 0:
                mask[n, column[t]] = 1.0
