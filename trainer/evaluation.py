"""Score before learning: how high each true item stood before the model learned from it.

The candidates are all items that anyone acted on in the last day of event time, none of them
sampled; ties count against the model; a true item that is not among them is a miss.

Shapes: Q query rows of a batch, A active items, D model width.
"""

from collections import deque

import numpy as np
import numpy.typing as npt

from service.histories.rings import Longs
from trainer.device import placed
from trainer.learner import Learner, Scored

ACTIVE_MS = 86_400_000
LAST = 2_000
TOP = 10
BASELINE = 1
"""The half-life, among the prior's, of the popularity baseline."""


class Evaluation:
    """Hit rates of the last 2,000 scored events, the model's beside decayed popularity's."""

    def __init__(self, learner: Learner, rows_per_block: int) -> None:
        self._learner, self._rows = learner, rows_per_block
        self._last_ms_R = np.full(0, -ACTIVE_MS, np.int64)
        self._hits: dict[str, deque[bool]] = {
            name: deque(maxlen=LAST) for name in ("online", "popularity")
        }

    def hit_rates(self) -> dict[str, float]:
        """HR@10 by model; empty before anything was scored."""
        return {name: float(sum(hits)) / len(hits) for name, hits in self._hits.items() if hits}

    def score(self, scored: Scored, truth_Q: Longs, now_ms: int) -> None:
        """Rank a few of the batch's true items, spread evenly over it."""
        active_A = np.flatnonzero(self._last_ms_R > now_ms - ACTIVE_MS)
        few = np.linspace(0, len(truth_Q) - 1, min(self._rows, len(truth_Q))).astype(np.int64)
        if not len(active_A) or not len(few):
            return
        scores_QA = self._learner.scores(scored, few, active_A, now_ms)
        here_A = placed(active_A, self._learner.device)
        counts_AP = self._learner.popularity.counts(here_A, now_ms)
        popular_A = counts_AP[:, min(BASELINE, counts_AP.shape[1] - 1)]
        place_Q = np.searchsorted(active_A, truth_Q[few]).clip(max=len(active_A) - 1)
        active_Q = active_A[place_Q] == truth_Q[few]
        for name, scores in (("online", scores_QA), ("popularity", popular_A[None])):
            self._hits[name].extend(_hits(scores.cpu().numpy(), place_Q) & active_Q)

    def observe(self, rows_N: Longs, at_ms_N: Longs) -> None:
        """The block's events were learned: their items are active now. Row 0 is no item."""
        rows_N, at_ms_N = rows_N[rows_N > 0], at_ms_N[rows_N > 0]
        top = int(rows_N.max(initial=-1)) + 1
        if top > len(self._last_ms_R):
            more = np.full(max(top, 2 * len(self._last_ms_R)) - len(self._last_ms_R), -ACTIVE_MS)
            self._last_ms_R = np.concatenate([self._last_ms_R, more])
        np.maximum.at(self._last_ms_R, rows_N, at_ms_N)

    def forget(self, rows_N: Longs) -> None:
        """Rows that the table freed."""
        self._last_ms_R[rows_N[rows_N < len(self._last_ms_R)]] = -ACTIVE_MS


def _hits(scores_QA: npt.NDArray[np.float32], place_Q: Longs) -> npt.NDArray[np.bool_]:
    """Whether fewer than TOP others score as much as the candidate at each row's place."""
    scores_QA = np.broadcast_to(scores_QA, (len(place_Q), scores_QA.shape[1]))
    own_Q1 = np.take_along_axis(scores_QA, place_Q[:, None], axis=1)
    # "not below" rather than "at least": a score that is not a number counts against the model.
    hits: npt.NDArray[np.bool_] = (~(scores_QA < own_Q1)).sum(axis=1) <= TOP
    return hits
