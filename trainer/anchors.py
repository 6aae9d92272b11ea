"""What published versions answered: the memory that new ones are held against.

No table of an old version is kept. Every version answers all trials when it is judged, those that
are still in quarantine as well, and its losses are kept; later it can be compared with a newer
version on the trials that both answered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trainer.trial_scores import MEASURES
from trainer.trials import Slice

NEVER_MS = -(2**62)


@dataclass(frozen=True, eq=False)
class Anchor:
    """One published version: when it was cut, and its losses [N, M] by slice."""

    version: int
    cut_ms: int
    losses: dict[int, Tensor]


@dataclass(frozen=True)
class Rise:
    """How much a measure has risen over the trials that both answered."""

    mean: float
    t: float
    """The mean over its standard error."""
    trials: int
    hours: float
    """Between the cuts of the two versions."""
    version: int
    """Whose losses were lower."""


@dataclass(frozen=True)
class Anchors:
    """Published versions, oldest first, at least `spacing_ms` apart. Immutable."""

    quarantine_ms: int
    spacing_ms: int
    kept: tuple[Anchor, ...] = ()
    holding: bool = False
    """Whether the newest version judged was held."""
    failed_ms: int = NEVER_MS
    """When a version last failed the comparison, event time."""

    def at(self, watermark_ms: int) -> Anchor | None:
        """The newest cut a quarantine ago or earlier; failing that the oldest of all."""
        old = [one for one in self.kept if one.cut_ms <= watermark_ms - self.quarantine_ms]
        return old[-1] if old else next(iter(self.kept), None)

    def rises(
        self, watermark_ms: int, slices: list[Slice], losses_NM: Tensor, slice_ms: int
    ) -> dict[str, Rise]:
        """By measure: this version's losses against the anchor's, on trials out of quarantine."""
        anchor = self.at(watermark_ms)
        parts = losses_NM.split([len(s) for s in slices])
        oldest_ms = watermark_ms - self.quarantine_ms
        both = [
            (mine, anchor.losses[one.number])
            for one, mine in zip(slices, parts, strict=True)
            if anchor and one.number in anchor.losses and (one.number + 1) * slice_ms <= oldest_ms
        ]
        if anchor is None or not both:
            return {}
        rise_NM = torch.cat([mine - theirs for mine, theirs in both]).double()
        hours = (watermark_ms - anchor.cut_ms) / 3_600_000
        return {
            name: _rise(rise_NM[:, m], hours, anchor.version)
            for m, name in enumerate(MEASURES)
            if bool(rise_NM[:, m].isfinite().all())
        }

    def published(
        self, version: int, watermark_ms: int, slices: list[Slice], losses_NM: Tensor
    ) -> Anchors:
        """With one more version, unless the last one is too near; without those that no version
        will be compared with any more."""
        kept = list(self.kept)
        if not kept or watermark_ms - kept[-1].cut_ms >= self.spacing_ms:
            parts = losses_NM.split([len(s) for s in slices])
            answered = {s.number: part for s, part in zip(slices, parts, strict=True)}
            kept.append(Anchor(version, watermark_ms, answered))
        first = self.at(watermark_ms)
        if first is not None:
            kept = kept[[one.version for one in kept].index(first.version) :]
        return replace(self, kept=tuple(kept), holding=False)

    def held(self) -> Anchors:
        """After a version that was not published."""
        return replace(self, holding=True)

    def failed(self, watermark_ms: int) -> Anchors:
        """The same, and the comparison was why."""
        return replace(self, holding=True, failed_ms=watermark_ms)

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors."""
        pairs = [(a, number) for a in self.kept for number in a.losses]
        losses = [a.losses[number] for a, number in pairs]
        return {
            "holding": torch.tensor([self.holding, self.failed_ms]),
            "versions": torch.tensor([[a.version, a.cut_ms] for a in self.kept]).view(-1, 2),
            "slices": torch.tensor([[a.version, n, len(a.losses[n])] for a, n in pairs]).view(
                -1, 3
            ),
            "losses": torch.cat(losses) if losses else torch.zeros(0, len(MEASURES)),
        }

    def loaded(self, state: dict[str, Tensor]) -> Anchors:
        """The anchors that returned `state`."""
        kept = {v: Anchor(v, at_ms, {}) for v, at_ms in state["versions"].tolist()}
        sizes = state["slices"][:, 2].long().tolist()
        rows = zip(state["slices"].long().tolist(), state["losses"].split(sizes), strict=True)
        for (version, number, _), losses_NM in rows:
            kept[version].losses[number] = losses_NM
        holding, failed_ms = state["holding"].tolist()
        return replace(self, kept=tuple(kept.values()), holding=bool(holding), failed_ms=failed_ms)


def _rise(rise_N: Tensor, hours: float, version: int) -> Rise:
    error = float(rise_N.std()) / np.sqrt(len(rise_N)) if len(rise_N) > 1 else np.inf
    mean = float(rise_N.mean())
    return Rise(mean, mean / max(error, 1e-12), len(rise_N), hours, version)
