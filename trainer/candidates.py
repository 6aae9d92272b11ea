"""What servers would get of a version: its quantized snapshot, and whether they may have it."""

import logging
from dataclasses import dataclass, replace
from typing import Any

from service.errors import VersionError
from service.model.prior import COUNTS_ORIGIN
from service.model.ranker import ITEM_SLOT
from service.versions import Manifest, Snapshot, VersionDirectory
from trainer.chains import number_of
from trainer.cuts import Cut
from trainer.fitting import Weights
from trainer.gate import Gate, Verdict
from trainer.settings import TrainerSettings
from trainer.snapshots import precisions, snapshot_of_delta

_log = logging.getLogger(__name__)

ROWS = f"slots/{ITEM_SLOT}"
MOST_HALF_LIVES = 48
"""Of counts, between their origin and a version: float32 sums of powers of two hold 127."""


@dataclass(frozen=True)
class Standard:
    """What the snapshots of a chain have in common until it changes."""

    weights: Weights
    """The dense weights that servers have, before they were quantized."""
    dense_ms: int
    """Event time at which these were current."""
    origin_ms: int
    """Of the counts."""

    def meta(self) -> dict[str, Any]:
        """What a checkpoint keeps of it; the weights are in the snapshots."""
        return {"dense_ms": self.dense_ms, COUNTS_ORIGIN: self.origin_ms}

    @classmethod
    def of(
        cls, directory: VersionDirectory, manifest: Manifest, meta: dict[str, Any]
    ) -> "Standard | None":
        """That of a version, with the weights as servers decode them; None if its snapshot cannot
        be read."""
        weights = Weights({})
        try:
            for name in reversed(manifest.snapshot):
                snapshot = Snapshot.read_file(directory, manifest, name)
                if snapshot.dense:
                    weights = Weights.of(snapshot)
                    break
        except VersionError as error:
            _log.error("the snapshot of version %d is not built upon: %s", manifest.number, error)
            return None
        return cls(weights, meta["dense_ms"], meta[COUNTS_ORIGIN])

    def renewed(self, now_ms: int, shortest_seconds: float) -> "Standard":
        """With counts from a new origin, where the old one is too long ago."""
        if now_ms - self.origin_ms <= MOST_HALF_LIVES * shortest_seconds * 1000:
            return self
        return replace(self, origin_ms=now_ms)


@dataclass(frozen=True)
class Candidate:
    """A version before its commit. `snapshot` is None where no quantized form exists."""

    snapshot: Snapshot | None
    verdict: Verdict
    standard: Standard


class Candidates:
    """Makes one candidate after another. Dense weights change only every so often: what servers
    keep of their users' histories stands as long as these do."""

    def __init__(self, gate: Gate, settings: TrainerSettings) -> None:
        self._gate, self._settings = gate, settings

    def made(
        self, cut: Cut, number: int, parent: Manifest | None, standard: Standard | None
    ) -> Candidate:
        """The candidate of a cut, as what follows `parent` with its standard (None: a base)."""
        now_ms, settings = cut.position.newest_ms, self._settings
        moments, fresh = cut.delta.parts["moments"], Weights(cut.delta.parts["network"])
        known = cut.delta.parts["information"]
        if parent is None or standard is None:
            wanted = precisions(fresh.full, settings.snapshot, settings.dense_precision)
            fresh, due = fresh.fit_to(moments, wanted, before=fresh), True
            fresh = fresh.with_factor(known, settings.exploration_prior)
            standard = Standard(fresh, now_ms, now_ms)
        else:
            wanted = parent.precision
            due = now_ms - standard.dense_ms >= settings.dense_seconds * 1000
            if due:
                fresh = fresh.fit_to(moments, wanted, before=standard.weights)
                fresh = fresh.with_factor(known, settings.exploration_prior)
                standard = replace(standard, weights=fresh, dense_ms=now_ms)
            standard = standard.renewed(now_ms, min(cut.model["model"]["priors"]))
        verdict = self._gate.judge(number, cut.trials, standard.weights, wanted)
        standard = replace(standard, weights=standard.weights.published(verdict.precision))
        if parent is not None and verdict.precision.get(ROWS) != wanted.get(ROWS):
            held = f"precision: rows as {verdict.precision[ROWS]} begin with the next version"
            return Candidate(None, replace(verdict, held=held, reason="precision"), standard)
        try:
            snapshot = self._snapshot(cut, number, parent, standard, verdict)
        except ValueError as error:
            held = f"broken: it has no quantized form: {error}"
            return Candidate(None, replace(verdict, held=held, reason="broken"), standard)
        if not due and verdict.precision == wanted:
            snapshot = replace(snapshot, dense={})
        return Candidate(snapshot, verdict, standard)

    @staticmethod
    def _snapshot(
        cut: Cut, number: int, parent: Manifest | None, standard: Standard, verdict: Verdict
    ) -> Snapshot:
        model = cut.model | {COUNTS_ORIGIN: standard.origin_ms}
        full = snapshot_of_delta(
            cut.delta, number, number_of(parent), cut.position.watermark_ms, model,
            standard.weights.at(verdict.precision) | standard.weights.beside,
        )  # fmt: skip
        return full.quantized(verdict.precision)
