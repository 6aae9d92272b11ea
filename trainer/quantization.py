"""Is what servers get close enough to what was trained? And if not, which tensor to spend bits on.

Rows and dense weights are coded and decoded as a snapshot codes them and a server decodes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.actions import RESERVED_KEY
from service.versions import SlotRows, Snapshot
from trainer.fitting import Weights
from trainer.trial_scores import Answers, Questions, Scorer

if TYPE_CHECKING:
    from trainer.gate_settings import GateSettings


FALLBACK = {"int4": "int8", "int8": "fp16"}
"""What stands in for a precision that is too coarse."""


@dataclass(frozen=True)
class Difference:
    """Quantized against full precision, on the same questions."""

    loss: float
    """How much the mean loss of next items and actions rises, nats."""
    calibration: float
    """Mean probability of what happened, quantized / full: the one further from 1."""
    largest: float
    """Largest difference between two scores of the same item."""

    def within(self, settings: GateSettings) -> bool:
        """Whether it may be served. NaN may not."""
        return (
            self.loss <= settings.quantized_loss
            and abs(self.calibration - 1) <= settings.quantized_calibration
            and self.largest <= settings.quantized_score
        )


@dataclass(frozen=True, eq=False)
class Coded:
    """What servers would compute with."""

    precision: dict[str, str]
    dense: dict[str, Tensor]
    questions: Questions


def coded(questions: Questions, weights: Weights, precision: Mapping[str, str]) -> Coded:
    """Dense weights and the questions' rows as they come out of a snapshot of these precisions.

    Raises ValueError for what cannot be coded.
    """
    vectors_RD = torch.cat([questions.vectors_KD, questions.vectors_LD])
    keys_R = torch.arange(len(vectors_RD) + 1) - 1
    keys_R[0] = RESERVED_KEY
    unknown_1D = torch.zeros(1, vectors_RD.shape[1])
    rows = SlotRows(keys_R, torch.cat([unknown_1D, vectors_RD]))
    snapshot = Snapshot(0, {}, weights.at(precision), {"item": rows}).quantized(precision)
    vectors_KD, vectors_LD = (
        snapshot.slots["item"].vectors()[1:].split([len(vectors_RD) - len(questions.popular_L),
                                                    len(questions.popular_L)])
    )  # fmt: skip
    served = replace(questions, vectors_KD=vectors_KD, vectors_LD=vectors_LD)
    return Coded(dict(precision), snapshot.weights(), served)


def difference(full: Answers, quantized: Answers) -> Difference:
    """What quantization has changed in the answers to the same questions."""
    rise_NM = (quantized.losses_NM - full.losses_NM)[:, 1:].double()
    applies = ~full.losses_NM[:, 1:].isnan().any(0)
    if not len(rise_NM) or not bool(applies.any()):
        return Difference(0.0, 1.0, 0.0)
    chance_M = (-quantized.losses_NM[:, 1:].double()).exp().mean(0)
    before_M = (-full.losses_NM[:, 1:].double()).exp().mean(0)
    ratio_M = (chance_M / before_M)[applies]
    apart = [
        (b - a)[a.isfinite() | b.isnan()].abs()
        for a, b in zip(full.scores, quantized.scores, strict=True)
    ]
    return Difference(
        float(rise_NM[:, applies].mean(0).max()),
        float(ratio_M[(ratio_M - 1).abs().argmax()]),
        float(torch.cat(apart).max()),
    )


class Fallback:
    """Raises the precision of one tensor after another until the answers are close enough."""

    def __init__(self, scorer: Scorer, settings: GateSettings) -> None:
        self._scorer, self._settings = scorer, settings

    def settle(
        self, questions: Questions, weights: Weights, precision: dict[str, str]
    ) -> tuple[dict[str, str], Difference]:
        """The precisions to publish with and how far off they are, within bounds or not.

        Raised is the tensor that alone, at its present precision, moves scores most.
        """
        full = self._scorer.answer(questions, weights.full)
        precision = dict(precision)
        while True:
            apart = self._difference(full, questions, weights, precision)
            lossy = [name for name, kind in precision.items() if kind in FALLBACK]
            if apart.within(self._settings) or not lossy:
                return precision, apart
            worst = max(
                lossy, key=lambda name: self._alone(full, questions, weights, precision, name)
            )
            precision[worst] = FALLBACK[precision[worst]]

    def _alone(
        self, full: Answers, questions: Questions, weights: Weights,
        precision: dict[str, str], name: str,
    ) -> float:  # fmt: skip
        return self._difference(full, questions, weights, {name: precision[name]}).largest

    def _difference(
        self, full: Answers, questions: Questions, weights: Weights,
        precision: dict[str, str],
    ) -> Difference:  # fmt: skip
        try:
            served = coded(questions, weights, precision)
        except ValueError:
            return Difference(torch.inf, torch.inf, torch.inf)
        return difference(full, self._scorer.answer(served.questions, served.dense))
