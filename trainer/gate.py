"""Judges every version before it is served. Held versions are kept and trained on from."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.metrics import TrainerMetrics
from trainer.alarm import Alarm
from trainer.anchors import Anchors, Rise
from trainer.fitting import Weights
from trainer.gate_settings import GateSettings
from trainer.gathering import Trials, counted, questions_of
from trainer.quantization import Difference, Fallback, coded
from trainer.trial_scores import MEASURES, Scorer
from trainer.trials import Reservoir, Slice

if TYPE_CHECKING:
    from trainer.learner import Learner
    from trainer.state import State
    from trainer.teaching import Scoring

STILL_HELD = 0.5
"""A hold ends when a rise is below this part of its bound: versions do not come and go at it."""
SPAN = 2
"""Quarantines that trials are kept for."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What becomes of a version."""

    held: str | None
    """Why it must not be served; None lets it pass."""
    reason: str | None
    """One word of it, for the counter."""
    precision: dict[str, str]
    metrics: dict[str, float]
    anchors: Anchors
    """What is remembered once the version is committed."""


class Gate:
    """`observe` and `gather` belong to the training thread, `judge` to the publisher's;
    `gather` runs only after the version before was committed."""

    def __init__(
        self, settings: GateSettings, learner: Learner, action_types: int, metrics: TrainerMetrics
    ) -> None:
        self.settings, self._metrics = settings, metrics
        self._reservoir = Reservoir(
            settings.slice_ms, settings.trials_per_slice, settings.events_per_trial
        )
        self._anchors = Anchors(settings.quarantine_ms, settings.quarantine_ms // 16)
        self._alarm = Alarm(settings, learner)
        self._scorer = Scorer(learner.network.settings, action_types)
        self._fallback = Fallback(self._scorer, settings)

    def observe(self, scoring: Scoring) -> None:
        """Collect trials: an observer of the Teacher."""
        self._reservoir.take(scoring)
        self._alarm.hear(scoring)
        self._metrics.loss_alarm.set(self._alarm.rings)

    def gather(self, state: State, watermark_ms: int) -> Trials:
        """Copy what the trials need of the state, and drop trials that nothing will ask for."""
        reservoir, alarm = self._reservoir, self._alarm
        self._drop(watermark_ms)
        slices = [*reservoir.closed, *reservoir.opened()]
        questions = questions_of(state, watermark_ms, slices, self.settings.popular)
        for place, one in enumerate(reservoir.closed):
            if one.counts_CP is None:
                slices[place] = reservoir.closed[place] = counted(one, questions, place)
        parts = {"trials": reservoir.state(), "alarm": alarm.state()}
        return Trials(
            watermark_ms, questions.with_slices(slices), len(reservoir.closed), alarm.surprise,
            alarm.words if alarm.rings else None,
            watermark_ms - alarm.rang_ms <= self.settings.quarantine_ms, _joined(parts),
        )  # fmt: skip

    def judge(
        self, version: int, trials: Trials, weights: Weights, precision: dict[str, str]
    ) -> Verdict:
        """Whether a version with these dense weights may be served, and in which precisions."""
        began = time.monotonic()
        precision, apart = self._fallback.settle(trials.recent, weights, precision)
        anchors, rises = self._anchors, dict[str, Rise]()
        held = _broken(weights.full, apart, self.settings)
        if held is None:
            slices, losses_NM = self._losses(trials, weights, precision)
            rises = anchors.rises(trials.watermark_ms, slices, losses_NM, self.settings.slice_ms)
            held = _unanswered(losses_NM)
            if held is None and (held := self._surprised(trials) or self._risen(rises, trials)):
                anchors = anchors.failed(trials.watermark_ms)
            held = held or self._recovering(trials)
            if held is None:
                anchors = anchors.published(version, trials.watermark_ms, slices, losses_NM)
        if held is not None:
            anchors = anchors.held()
        reason, words = held or (None, None)
        self._metrics.gate_seconds.observe(time.monotonic() - began)
        metrics = _measured(apart, rises, trials.surprise)
        return Verdict(words, reason, precision, metrics, anchors)

    def committed(self, verdict: Verdict) -> None:
        """The version was committed: remember it."""
        self._anchors = verdict.anchors
        if verdict.reason is not None:
            self._metrics.versions_held_total.labels(verdict.reason).inc()
        for name, value in verdict.metrics.items():
            self._metrics.gate.labels(name.removeprefix("gate.")).set(value)

    def release(self) -> None:
        """An operator lets what was held be served: versions are compared from here on."""
        self._anchors = Anchors(self._anchors.quarantine_ms, self._anchors.spacing_ms)
        self._alarm.calm()

    def erase(self, users: set[int]) -> None:
        """Forget every trial of these users, by key."""
        self._reservoir.erase(users)

    def users(self, trials: Trials) -> Tensor:
        """Unit vectors [N, D] of who asks in the recent trials, by the weights judged last."""
        return self._scorer.users(trials.recent)

    def state(self, trials: Trials, verdict: Verdict) -> dict[str, Tensor]:
        """What a checkpoint of the version must hold, as if it were committed already."""
        return trials.collected | _joined({"anchors": verdict.anchors.state()})

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on where the gate was that returned `state`."""
        self._reservoir.load(_part(state, "trials."))
        self._alarm.load(_part(state, "alarm."))
        self._anchors = self._anchors.loaded(_part(state, "anchors."))

    def _losses(
        self, trials: Trials, weights: Weights, precision: dict[str, str]
    ) -> tuple[list[Slice], Tensor]:
        """The closed slices and what servers would lose on them; NaN for what cannot be coded."""
        slices = trials.questions.slices[: trials.closed]
        count = sum(map(len, slices))
        try:
            served = coded(trials.questions.part(0, trials.closed), weights, precision)
        except ValueError:
            return slices, torch.full((count, len(MEASURES)), torch.nan)
        return slices, self._scorer.answer(served.questions, served.dense).losses_NM

    def _drop(self, watermark_ms: int) -> None:
        """Keep the trials of the last quarantines, and those that the anchor answered last. What
        was collected while versions were held goes: it may be what they were held for."""
        settings, anchors = self.settings, self._anchors
        anchor, newest = anchors.at(watermark_ms), watermark_ms // settings.slice_ms
        kept = set(range(newest - SPAN * settings.slices, newest + 1))
        if anchors.holding and anchors.kept:
            kept = set(anchors.kept[-1].losses)
        kept |= set(sorted(anchor.losses)[-settings.slices :] if anchor else [])
        self._reservoir.forget({one.number for one in self._reservoir.closed} - kept)

    def _surprised(self, trials: Trials) -> tuple[str, str] | None:
        if trials.alarm is None:
            return None
        return "surprise", f"surprise: new events are not as usual: {trials.alarm}"

    def _recovering(self, trials: Trials) -> tuple[str, str] | None:
        """A hold ends when versions have passed for the length of a slice."""
        seconds = (trials.watermark_ms - self._anchors.failed_ms) / 1000
        if seconds * 1000 >= self.settings.slice_ms:
            return None
        return "recovering", f"recovering: versions pass again, but only since {seconds:.0f} s"

    def _strictness(self, trials: Trials) -> float:
        """What part of its bounds a rise may reach."""
        if trials.suspicious:
            return self.settings.suspicious
        return STILL_HELD if self._anchors.holding else 1.0

    def _risen(self, rises: dict[str, Rise], trials: Trials) -> tuple[str, str] | None:
        settings = self.settings
        for name, rise in rises.items():
            beyond = max(0.0, rise.hours - settings.quarantine_seconds / 3600)
            bound = getattr(settings, name) * self._strictness(trials) + settings.per_hour * beyond
            clear = rise.t > settings.t and rise.trials >= settings.least_trials
            if clear and rise.mean > bound:
                return name, (
                    f"{name}: loss rose by {rise.mean:.3f} nats since version {rise.version} "
                    f"(allowed: {bound:.3f}; {rise.trials} trials, t = {rise.t:.1f})"
                )
        return None


def _broken(
    dense: dict[str, Tensor], apart: Difference, settings: GateSettings
) -> tuple[str, str] | None:
    for name, weight in dense.items():
        if not bool(weight.isfinite().all()):
            return "broken", f"broken: dense weight {name} has NaN or infinite values"
    if not math.isfinite(apart.largest):
        return "broken", "broken: scores of recent trials are NaN or infinite"
    if not apart.within(settings):
        return "quantization", f"quantization: {apart}"
    return None


def _unanswered(losses_NM: Tensor) -> tuple[str, str] | None:
    crowd_N = losses_NM[:, MEASURES.index("crowd")]
    if bool(crowd_N.isfinite().all()):
        return None
    return "broken", "broken: scores of trials are NaN or infinite"


def _measured(
    apart: Difference, rises: dict[str, Rise], surprise: tuple[float, float]
) -> dict[str, float]:
    risen = {f"gate.{name}": rise.mean for name, rise in rises.items()}
    return {
        "gate.surprise": surprise[0],
        "gate.edge": surprise[1],
        "gate.quantized_loss": apart.loss,
        "gate.quantized_calibration": apart.calibration,
        "gate.quantized_score": apart.largest,
        **risen,
    }


def _joined(parts: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{part}.{n}": t for part, tensors in parts.items() for n, t in tensors.items()}


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
