"""Which items are popular now: the most frequent among the recent positives."""

import numpy as np

from service.histories.rings import Longs
from trainer.negatives import NegativePool


def popular_rows(pool: NegativePool, count: int) -> Longs:
    """Rows of at most so many items, the most frequent first; of two alike the lower row."""
    rows, times = np.unique(pool.state()["rows"].numpy(), return_counts=True)
    order = np.argsort(-times, kind="stable")
    most: Longs = rows[order][rows[order] > 0][:count]
    return most
