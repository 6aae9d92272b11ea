"""How many of a block's positives one user may teach."""

from dataclasses import dataclass

import numpy as np

from service.histories.leaving import Flags
from service.histories.rings import Longs


@dataclass(frozen=True)
class UserCap:
    """At most max(floor, share * the block's positives) of one user's, the first ones."""

    floor: int
    share: float

    def beyond(self, user_T: Longs, positive_T: Flags) -> Flags:
        """Which events of a block, in its order, are positives past their user's cap."""
        at_P = np.flatnonzero(positive_T)
        most = max(self.floor, int(self.share * len(at_P)))
        users_P = user_T[at_P]
        order = np.argsort(users_P, kind="stable")
        ordered = users_P[order]
        rank_P = np.arange(len(order)) - np.searchsorted(ordered, ordered)
        beyond_T = np.zeros(len(user_T), np.bool_)
        beyond_T[at_P[order[rank_P >= most]]] = True
        return beyond_T
