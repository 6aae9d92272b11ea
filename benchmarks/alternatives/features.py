"""Features of candidates for a ranker of trees: counters of items, and how they meet the history.

Shapes: I items, L history, C candidates, F features.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

HISTORY = 256
"""Events of a user that are looked at."""
OF_ITEMS, OF_USERS, OF_BOTH = 20, 4, 6
FEATURES = OF_ITEMS + OF_USERS + OF_BOTH
CATEGORIES = 50
RECENT = 10


class Features:
    """Counters and categories of items, made up from a seed; item 0 is an unknown one."""

    def __init__(self, items: int) -> None:
        draw = np.random.default_rng(0)
        self._item_IF = draw.exponential(1.0, (items + 1, OF_ITEMS)).astype(np.float32)
        self._category_I = draw.integers(0, CATEGORIES, items + 1)

    def of(self, history_L: Ints, candidate_C: Ints) -> Floats:
        """Features [C, F]; the history's newest event first."""
        out_CF = np.empty((len(candidate_C), FEATURES), np.float32)
        out_CF[:, :OF_ITEMS] = self._item_IF[candidate_C]
        out_CF[:, OF_ITEMS : OF_ITEMS + OF_USERS] = self._of_user(history_L)
        out_CF[:, OF_ITEMS + OF_USERS :] = self._of_both(history_L, candidate_C)
        return out_CF

    def _of_user(self, history_L: Ints) -> Floats:
        popularity_L = self._item_IF[history_L, 0]
        return np.array(
            [
                len(history_L), len(np.unique(history_L)), popularity_L.mean(),
                len(np.unique(self._category_I[history_L])),
            ],
            np.float32,
        )  # fmt: skip

    def _of_both(self, history_L: Ints, candidate_C: Ints) -> Floats:
        """Times seen, events since, and the same of the category, in all and lately."""
        items, size = len(self._item_IF), len(history_L)
        of_L, of_C = self._category_I[history_L], self._category_I[candidate_C]
        since_I, since_K = np.full(items, size), np.full(CATEGORIES, size)
        since_I[history_L[::-1]] = since_K[of_L[::-1]] = np.arange(size)[::-1]
        recent_K = np.bincount(of_L[:RECENT], minlength=CATEGORIES)
        columns = [
            np.bincount(history_L, minlength=items)[candidate_C],
            since_I[candidate_C],
            np.bincount(of_L, minlength=CATEGORIES)[of_C] / size,
            recent_K[of_C] / RECENT,
            since_K[of_C],
            of_C == of_L[0],
        ]
        return np.stack(columns, 1).astype(np.float32)
