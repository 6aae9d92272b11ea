"""What the action heads predicted before they learned, against what followed; and the maps that
make served chances agree with it.

A target is heard with the logits that the weights before its batch gave it, as it was shown: with
the bias of its position, and as if no negative had been left out. Its log odds fall into one of 40
bins, whose sums fade. A version's map is fitted to them: in every bin the predicted rate moves to
the observed one as far as there is evidence, and pooling adjacent violators (Ayer et al., "An
empirical distribution function for sampling with incomplete information", 1955) makes it monotone:
isotonic calibration (Zadrozny and Elkan, KDD 2002) of a stream, scored before it is learned (Blum
et al., "Beating the hold-out", COLT 1999).

Shapes: R target rows, A action types, B bins, K knots (one per bin), C the two chances of CHANCES.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from service.model.calibration import Calibration

BINS, LOWEST, WIDTH = 40, -12.0, 0.5
"""Of log odds; what lies beyond belongs to the first and the last bin."""
HALF_LIFE = 500.0
"""Actions of a type after which its sums have faded to a half."""
TRUST = 10.0
"""A bin's own prediction counts as if so many actions (or so many without one, where these are
rarer) had confirmed it: with as many observed ones the map goes half the way."""
NEAREST = 1e-6
"""Of a knot to its bin's edge."""
FARTHEST = 20.0
"""Of a knot beyond the bins."""

CHANCES = ("raw", "served")
"""Of the heads themselves, and after calibration."""

Tensors = dict[str, Tensor]
Floats = np.ndarray[Any, np.dtype[np.float64]]


class Heard(NamedTuple):
    """Targets with what their heads thought of them, on the CPU."""

    logit_RA: Tensor
    label_RA: Tensor
    weight_RA: Tensor
    """How many shown items each label stands for; 0 for a late action, whose item was heard."""


class Sums(NamedTuple):
    """Over the targets in a bin; [..., B] each."""

    weight: Floats
    acted: Floats
    predicted: Floats


class Calibrator:
    """Fading sums over targets, by action type, chance and bin. Everything follows from them."""

    def __init__(self, action_types: int) -> None:
        self._sums: Floats = np.zeros((action_types, len(CHANCES), len(Sums._fields), BINS))

    def hear(self, heard: Heard) -> None:
        """Add targets; the served chance is that of the map fitted to all before them."""
        served_RA = self.fitted()(heard.logit_RA)
        acted_A = heard.label_RA.double().sum(0).numpy()
        self._sums *= 0.5 ** (acted_A / HALF_LIFE)[:, None, None, None]
        for chance, logit_RA in enumerate((heard.logit_RA, served_RA)):
            self._sums[:, chance] += _binned(logit_RA, heard.label_RA, heard.weight_RA)

    def fitted(self) -> Calibration:
        """The maps as the sums are now; those that change nothing where there is no evidence."""
        sums = self._of("raw")
        edge_B: Floats = LOWEST + WIDTH * np.arange(BINS, dtype=np.float64)
        empty = sums.weight <= 0
        middle_B = _chance(edge_B + WIDTH / 2)
        rate_AB = np.where(empty, middle_B, sums.predicted / np.where(empty, 1, sums.weight))
        low_B, high_B = edge_B + NEAREST, edge_B + WIDTH - NEAREST
        low_B[0], high_B[-1] = low_B[0] - FARTHEST, high_B[-1] + FARTHEST
        at_AB = np.clip(_log_odds(rate_AB), low_B, high_B)
        rate_AB = _chance(at_AB)
        trust_AB = TRUST / (rate_AB * (1 - rate_AB))
        weight_AB = sums.weight + trust_AB
        acted_AB = np.minimum(sums.acted, sums.weight)
        least_AB = TRUST / weight_AB
        moved_AB = (acted_AB - sums.weight * rate_AB) / weight_AB
        observed_AB = np.clip(rate_AB + moved_AB, least_AB, 1 - least_AB)
        to_AB = at_AB + _log_odds(_pooled(observed_AB, weight_AB)) - _log_odds(rate_AB)
        return Calibration(
            torch.from_numpy(at_AB), torch.from_numpy(np.maximum.accumulate(to_AB, axis=1))
        )

    def errors(self) -> dict[str, Floats]:
        """Expected calibration error [A] of each of CHANCES: the mean of |predicted - observed|
        over bins, by their targets; NaN before there were any."""
        return {chance: _error(self._of(chance)) for chance in CHANCES}

    def state(self) -> Tensors:
        """A copy of the sums, [A, C, 3, B]."""
        return {"sums": torch.from_numpy(self._sums.copy())}

    def load(self, state: Tensors) -> None:
        """Become what returned `state`; an empty one, of a version before there was calibration, is
        nothing heard yet."""
        if "sums" in state:
            self._sums = state["sums"].numpy().copy()

    def _of(self, chance: str) -> Sums:
        return Sums(*self._sums[:, CHANCES.index(chance)].swapaxes(0, 1))


def _binned(logit_RA: Tensor, label_RA: Tensor, weight_RA: Tensor) -> Floats:
    """What targets add to the sums of one chance, [A, 3, B]."""
    logits, types = logit_RA.double().numpy(), logit_RA.shape[1]
    bin_RA = np.clip(np.floor((logits - LOWEST) / WIDTH), 0, BINS - 1).astype(np.int64)
    place_N = (bin_RA + BINS * np.arange(types)).ravel()
    weights = weight_RA.double().numpy()
    columns = Sums(weights, label_RA.double().numpy(), weights * _chance(logits))
    found = [np.bincount(place_N, column.ravel(), BINS * types) for column in columns]
    sums: Floats = np.array(found, np.float64).reshape(len(found), types, BINS).swapaxes(0, 1)
    return sums


def _error(sums: Sums) -> Floats:
    weight_A = sums.weight.sum(-1)
    apart_A = np.abs(sums.acted - sums.predicted).sum(-1)
    error_A: Floats = np.where(weight_A > 0, apart_A / np.where(weight_A > 0, weight_A, 1), np.nan)
    return error_A


def _chance(log_odds: Floats) -> Floats:
    with np.errstate(over="ignore"):
        chance: Floats = 1 / (1 + np.exp(-log_odds))
    return chance


def _log_odds(chance: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        log_odds: Floats = np.log(chance) - np.log1p(-chance)
    return log_odds


@njit(cache=True, nogil=True)
def _pooled(rates: Floats, weights: Floats) -> Floats:
    """The nearest rows that never fall, by weighted squares: neighbours that do become their
    weighted mean."""
    pooled = np.empty_like(rates)
    mean, weight = np.empty(rates.shape[1]), np.empty(rates.shape[1])
    length = np.empty(rates.shape[1], np.int64)
    for a in range(len(rates)):
        top = -1
        for b in range(rates.shape[1]):
            top += 1
            mean[top], weight[top], length[top] = rates[a, b], weights[a, b], 1
            while top and mean[top - 1] > mean[top]:
                total = weight[top - 1] + weight[top]
                mean[top - 1] += (mean[top] - mean[top - 1]) * (weight[top] / total)
                weight[top - 1] = total
                length[top - 1] += length[top]
                top -= 1
        b = 0
        for block in range(top + 1):
            pooled[a, b : b + length[block]] = mean[block]
            b += length[block]
    return pooled
