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
from trainer.gate import Gate, Verdict
from trainer.settings import TrainerSettings
from trainer.snapshots import precisions, snapshot_of_delta
from trainer.state import Tensors

_log = logging.getLogger(__name__)

ROWS = f"slots/{ITEM_SLOT}"
MOST_HALF_LIVES = 48
"""Of counts, between their origin and a version: float32 sums of powers of two hold 127."""


@dataclass(frozen=True)
class Standard:
    """What the snapshots of a chain have in common until it changes."""

    dense: Tensors
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
        dense: Tensors = {}
        try:
            for name in reversed(manifest.snapshot):
                dense = Snapshot.read_file(directory, manifest, name).weights()
                if dense:
                    break
        except VersionError as error:
            _log.error("the snapshot of version %d is not built upon: %s", manifest.number, error)
            return None
        return cls(dense, meta["dense_ms"], meta[COUNTS_ORIGIN])

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
        now_ms, fresh = cut.position.newest_ms, cut.delta.parts["network"]
        if parent is None or standard is None:
            standard = Standard(fresh, now_ms, now_ms)
            wanted, due = precisions(fresh, self._settings.snapshot), True
        else:
            wanted = parent.precision
            due = now_ms - standard.dense_ms >= self._settings.dense_seconds * 1000
            standard = replace(standard, dense=fresh, dense_ms=now_ms) if due else standard
            standard = standard.renewed(now_ms, min(cut.model["model"]["priors"]))
        verdict = self._gate.judge(number, cut.trials, standard.dense, wanted)
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
            standard.dense,
        )  # fmt: skip
        return full.quantized(verdict.precision)
