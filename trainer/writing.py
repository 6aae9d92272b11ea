"""One version after another, each on its way into the directory: judged, written, committed."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.blocks import Offsets
from service.errors import VersionError
from service.streams import Stream
from service.versions import Checkpoint, Draft, Manifest, Snapshot, VersionDirectory, fold
from service.versions.manifest import FIRST_APPEND
from trainer.candidates import Candidate, Candidates, Standard
from trainer.chains import Chain, number_of
from trainer.cuts import Cut, Position
from trainer.folding import folded
from trainer.gate import Gate
from trainer.segments import SegmentFiles
from trainer.settings import TrainerSettings
from trainer.snapshots import with_origin
from trainer.state import named

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rules:
    """What every version of a trainer is written by."""

    tied: dict[str, Any]
    """Settings that go into every manifest."""
    history_capacity: int
    settings: TrainerSettings


class Writer:
    """Knows the newest version, and what the next one can build on. One thread at a time."""

    def __init__(
        self,
        directory: VersionDirectory,
        gate: Gate,
        rules: Rules,
        stream: Stream,
        announce: Callable[[int], None] = lambda number: None,
    ) -> None:
        """`stream` is what is learned from: synced before a version counts on it; `announce` tells
        servers of a version."""
        self._directory, self._gate, self._rules, self._stream = directory, gate, rules, stream
        self._candidates = Candidates(gate, rules.settings)
        self._announce = announce
        self._segments = SegmentFiles(directory, rules.history_capacity)
        self._parent: Manifest | None = None
        self._standard: Standard | None = None
        # Of the newest version of all, readable or not: a number is never reused, and a higher one
        # that appears later is another trainer's.
        self._number = directory.latest() or 0
        self._forgotten = 0
        self.whole = True
        """Whether the next cut must hold everything, there being nothing to build on."""

    @property
    def number(self) -> int:
        """The number of the version to be written next."""
        return self._number + 1

    def resume(self, parent: Manifest, meta: dict[str, Any], standard: Standard | None) -> None:
        """Go on after this version, whose checkpoint keeps `meta`; without a standard, because its
        snapshot cannot be read, the next version holds everything."""
        self._parent, self._number = parent, max(self._number, parent.number)
        self._segments.resume(parent, meta["segment_levels"])
        self._standard = standard
        wanted, rows = self._forms(), meta["snapshot"]
        there = {"snapshot": rows, "dense": meta.get("dense", rows)}
        there |= {"exploration": meta.get("exploration", False)}
        self.whole = standard is None or not parent.snapshot or there != wanted

    def write(self, cut: Cut) -> Manifest:
        """Steps, in order, each safe to die after:

        1. judge the quantized form: its precision, and whether servers may have it;
        2. write history segment, checkpoint and snapshot under the draft's own name: what has
           changed since the parent, and a base where one is due;
        3. sync the streams, or a power loss could take back records that the version counts as
           read;
        4. create the manifest, only if absent: the commit (`Draft.commit` has its own steps);
        5. move the LATEST hint;
        6. announce the version, so that servers look at the directory at once;
        7. show the offsets to whoever watches the log, for display only: nothing reads them back;
        8. remove the versions that nobody needs any more.

        Raises VersionExists if another trainer is ahead, OSError or VersionError if something could
        not be written or read.
        """
        parent, wipe = None if cut.whole else self._parent, cut.orders.wipe
        candidate = self._candidates.made(cut, self.number, parent, self._standard)
        with self._directory.begin(self.number, cut.orders.generation) as draft:
            levels = self._segments.write(draft, cut.segment, cut.orders)
            meta = self._meta(cut, candidate, levels)
            tensors = cut.delta.tensors() | named(
                {"gate": self._gate.state(cut.trials, candidate.verdict)}
            )
            delta = Checkpoint(tensors, meta, self.number, number_of(parent))
            self._write_checkpoint(draft, parent, delta, wipe)
            step = self._write_snapshot(draft, parent, candidate, wipe)
            self._stream.sync()
            manifest = draft.commit(self._manifest(cut, candidate, step))
        self._announce(manifest.number)
        self._stream.progress(cut.position.offsets)
        self._gate.committed(candidate.verdict)
        self.resume(manifest, meta, candidate.standard)
        if wipe:
            self.forget(manifest.number)
        self.remove_old()
        return manifest

    def forget(self, before: int) -> None:
        """Have versions below a number removed, whatever else would keep them."""
        self._forgotten = max(self._forgotten, before)

    def remove_old(self) -> None:
        """Remove what nobody needs. The newest version stands: what cannot be removed now is
        removed after the next one."""
        try:
            if self._forgotten:
                self._directory.forget(self._forgotten)
            self._forgotten = 0
            self._directory.prune(self._rules.settings.keep_versions)
        except (OSError, VersionError) as error:
            _log.error("old versions stay for now: %s", error)

    def _meta(self, cut: Cut, candidate: Candidate, levels: list[int]) -> dict[str, Any]:
        """What a checkpoint keeps beside its tensors."""
        return {
            "largest_ms": cut.position.largest_ms,
            "history_cursor": cut.history_cursor,
            "segment_levels": levels,
            **self._forms(),
            **candidate.standard.meta(),
        }

    def _forms(self) -> dict[str, str | bool]:
        """Asked for: the precision of rows and of dense weights, and whether there is beside these
        what servers explore by. Others begin with a base."""
        settings = self._rules.settings
        return {
            "snapshot": settings.snapshot, "dense": settings.dense_precision,
            "exploration": settings.exploration,
        }  # fmt: skip

    def _write_checkpoint(
        self, draft: Draft, parent: Manifest | None, delta: Checkpoint, wipe: bool
    ) -> None:
        """The delta behind its chain, or a base: all of the chain folded."""
        chain = Chain.of(parent, "checkpoint")
        if not wipe and not chain.due(self._base_every):
            chain.share(draft)
            delta.write(draft)
        else:
            older = Checkpoint.chain(self._directory, parent) if parent is not None else []
            Checkpoint(folded([*older, delta]), delta.meta, self.number).write(draft)

    def _write_snapshot(
        self, draft: Draft, parent: Manifest | None, candidate: Candidate, wipe: bool
    ) -> str | None:
        """A delta behind its chain, or a base, and then the delta, too: who serves the parent need
        not read the base. Returns the delta's name."""
        chain, delta = Chain.of(parent, "snapshot"), candidate.snapshot
        if delta is None:
            return None
        if parent is None:
            delta.write(draft)
            return None
        origin_ms = candidate.standard.origin_ms
        moved = self._standard is None or origin_ms != self._standard.origin_ms
        if wipe or moved or chain.due(self._base_every):
            before = Snapshot.read(self._directory, parent.number)
            fold([with_origin(before, origin_ms), delta]).write(draft)
        else:
            chain.share(draft)
        return None if moved else delta.write_step(draft)

    @property
    def _base_every(self) -> int:
        return self._rules.settings.base_every

    def _manifest(self, cut: Cut, candidate: Candidate, step: str | None) -> Manifest:
        parent, verdict = number_of(self._parent), candidate.verdict
        return Manifest(
            number=self.number,
            parent=parent,
            created_at=time.time(),
            watermark_ms=cut.position.watermark_ms,
            block=cut.block,
            offsets=_written(cut.position.offsets),
            topic_ids=cut.position.topic_ids,
            blocks=cut.blocks,
            settings=self._rules.tied,
            counters=cut.counters,
            metrics=cut.metrics | verdict.metrics | _appended(cut.position),
            snapshot_parent=parent if step else None,
            step=step,
            held=verdict.held,
            decisions=cut.orders.generation,
            precision=verdict.precision,
            join_from=_written(cut.join_from),
        )


def _appended(position: Position) -> dict[str, float]:
    """When the oldest record that this version adds was appended."""
    first_ms = position.first_append_ms
    return {FIRST_APPEND: first_ms / 1000} if first_ms else {}


def _written(offsets: Offsets) -> dict[str, dict[str, int]]:
    """Offsets as manifests have them: JSON's keys are strings."""
    return {
        topic: {str(p): offset for p, offset in partitions.items()}
        for topic, partitions in offsets.items()
    }
