"""How surprising new events are: what the model makes of them before it learns them.

Of every batch some events are asked for, spread evenly: how far the true item stands below those
that are popular now. `loss` is that; `edge` is how much lower it is than by popularity alone. Who
changes what a whole stream says cannot hide from the one or the other: the model that is served
knows nothing of it yet.

Shapes: N events asked for, L popular items, S items scored.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from service.histories.rings import Longs
from trainer.anchors import NEVER_MS
from trainer.popular import popular_rows

if TYPE_CHECKING:
    from trainer.gate_settings import GateSettings
    from trainer.learner import Learner
    from trainer.teaching import Scoring

_log = logging.getLogger(__name__)

LONG = 4
"""Quarantines after which half of the long average has gone, and that it rings at most: what
lasts longer is believed."""
STILL = 0.5
"""Part of its bounds at which the alarm stops."""
LITTLE = 2 / 3
"""Part of the bound on a lost lead that any model may lose."""
ASKED = 256
"""Events of a batch."""
SHORT = 256
"""Events after which half of the short average has gone."""
LEAST = 2_000
"""Events that must have been heard before anything is unusual, beside the time LONG."""


class Alarm:
    """Two averages of each: a short one, and one that fades over hours of event time and stands
    still while it rings, so that poison does not become usual."""

    def __init__(self, settings: GateSettings, learner: Learner) -> None:
        self._settings, self._learner = settings, learner
        self.rings = False
        self.rang_ms = NEVER_MS
        """When it last rang, event time."""
        self._since_ms = NEVER_MS
        """When it last began to ring."""
        self._short, self._long = np.zeros(3), np.zeros(3)
        """Sums of loss, of edge and of weights, faded: by events, and by event time."""
        self._heard, self._lived_ms, self._last_ms = 0, 0, NEVER_MS

    def hear(self, scoring: Scoring) -> None:
        """Take in one batch; what is not finite is not heard."""
        told = self._asked(scoring)
        if not told[2] or not np.isfinite(told).all():
            return
        rang, passed_ms = self.rings, self._passed_ms(scoring.now_ms)
        self._short = self._short * 2 ** (-told[2] / SHORT) + told
        self._heard, self._lived_ms = self._heard + int(told[2]), self._lived_ms + passed_ms
        self._last_ms = max(self._last_ms, scoring.now_ms)
        self.rings = self._unusual
        if not self.rings:
            faded = self._long * 2 ** (-passed_ms / (LONG * self._settings.quarantine_ms))
            self._long = faded + told / told[2] * passed_ms
            return
        self.rang_ms = self._last_ms
        if not rang:
            self._since_ms = self._last_ms
            _log.warning("new events are not as usual: %s", self.words)
        elif self._last_ms - self._since_ms >= LONG * self._settings.quarantine_ms:
            self.calm()

    def _passed_ms(self, now_ms: int) -> int:
        """Event time that a batch stands for: a flood counts for as long as it lasts and not for
        its size, and what follows a gap in the stream no more than anything else."""
        return min(max(1, now_ms - self._last_ms), self._settings.slice_ms)

    @property
    def _unusual(self) -> bool:
        """Whether new events are too far from the usual. Once it rings they must come half the way
        back: what is poisoned wears off as it is learned. The lead is lost at the latest when it
        is worse than none, but for a little that a model with a small lead always loses."""
        (loss, edge), settings = self.surprise, self._settings
        part = STILL if self.rings else 1.0
        usual = self._long[1] / self._long[2] if self._long[2] else 0.0
        lead = min(settings.alarm_edge, max(LITTLE * settings.alarm_edge, usual))
        moved = abs(loss) > part * settings.alarm_loss
        return bool(moved or -edge > part * lead or edge > part * settings.alarm_gain)

    @property
    def words(self) -> str:
        """The surprise for a person to read."""
        loss, edge = self.surprise
        return f"loss {loss:+.2f} nats, lead over popularity {edge:+.2f} nats"

    @property
    def surprise(self) -> tuple[float, float]:
        """How far loss and edge are above their usual values, nats; 0 before there are any."""
        young = self._heard < LEAST or self._lived_ms < LONG * self._settings.quarantine_ms
        if young or not self._long[2]:
            return 0.0, 0.0
        loss, edge = (self._short[:2] / self._short[2]).tolist()
        usual_loss, usual_edge = (self._long[:2] / self._long[2]).tolist()
        return loss - usual_loss, edge - usual_edge

    def calm(self) -> None:
        """What is new is usual from now on."""
        self._long = self._short / self._short[2] * self._long[2]
        self.rings, self.rang_ms = False, NEVER_MS

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors."""
        return {
            "sums": torch.from_numpy(np.stack([self._short, self._long])),
            "heard": torch.tensor(
                [self._heard, self._lived_ms, self._last_ms, self.rang_ms, self._since_ms]
            ),
            "rings": torch.tensor(self.rings),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Become the alarm that returned `state`."""
        self._short, self._long = state["sums"].numpy().copy()
        self.rings = bool(state["rings"])
        times = state["heard"].tolist()
        self._heard, self._lived_ms, self._last_ms, self.rang_ms, self._since_ms = times

    def _asked(self, scoring: Scoring) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Sum of losses, sum of edges, and how many events of a batch were asked for."""
        rows_L = popular_rows(self._learner.pool, self._settings.popular)
        count = min(ASKED, len(scoring.truth_Q)) if len(rows_L) else 0
        if not count:
            return np.zeros(3)
        asked_N = np.linspace(0, len(scoring.truth_Q) - 1, count).astype(np.int64)
        truth_N = scoring.truth_Q[asked_N]
        rows_S = np.unique(np.concatenate([rows_L, truth_N]))
        learner, now_ms = self._learner, scoring.now_ms
        scores_NS = learner.scores(scoring.scored, asked_N, rows_S, now_ms).cpu()
        rows = torch.from_numpy(rows_S).to(learner.device)
        prior_S = learner.network.item_prior(learner.popularity.counts(rows, now_ms))
        shared_S = np.isin(rows_S, rows_L)
        loss = _loss(scores_NS, truth_N, rows_S, shared_S)
        prior_NS = prior_S.detach().cpu().expand(count, -1)
        return np.array([loss, _loss(prior_NS, truth_N, rows_S, shared_S) - loss, count])


def _loss(
    scores_NS: Tensor, truth_N: Longs, rows_S: Longs,
    shared_S: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> float:  # fmt: skip
    """Sum over events: minus the log probability of the true item among it and the shared ones."""
    own_NS = torch.from_numpy(truth_N[:, None] == rows_S)
    among_NS = own_NS | torch.from_numpy(shared_S)
    all_N = scores_NS.masked_fill(~among_NS, -torch.inf).logsumexp(1)
    return float((all_N - scores_NS[own_NS]).double().sum())
