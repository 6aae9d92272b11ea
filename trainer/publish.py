"""Versions: cut at a block boundary, written while training goes on, committed by a manifest."""

import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from service.blocks import Offsets
from service.errors import VersionError
from service.histories.segments import MERGE, Segment, compacted, concatenated
from service.versions import Checkpoint, Manifest, VersionDirectory
from trainer.copying import StateCopy
from trainer.state import State

_log = logging.getLogger(__name__)

EXACT = ("actions.weight",)
"""Matrices that make scores directly: kept in full precision."""


@dataclass(frozen=True)
class Position:
    """Where in the streams a block boundary lies."""

    offsets: Offsets
    topic_ids: dict[str, str]
    largest_ms: dict[str, int]
    watermark_ms: int


@dataclass(frozen=True)
class Cut:
    """Everything a version holds, as of one block boundary."""

    state: StateCopy
    segment: Segment
    described: dict[str, Any]
    position: Position
    block: int
    blocks: list[int]
    counters: dict[str, int | float]
    metrics: dict[str, float]
    history_cursor: int


class Publisher:
    """Cuts versions and writes them in a thread of its own, one at a time and in order.

    The item table is copied between blocks, a slice at a time (`advance`), then written.
    """

    def __init__(
        self,
        directory: VersionDirectory,
        settings: dict[str, Any],
        history_capacity: int,
        keep: int,
        sync: Callable[[], None],
        committed: Callable[[Manifest, float], None],
    ) -> None:
        """`settings` go into every manifest; `sync` makes what was read from the streams durable;
        `committed` hears of each version and its duration."""
        self._directory, self._settings, self._keep = directory, settings, keep
        self._capacity = history_capacity
        self._sync, self._committed = sync, committed
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="publish")
        self._copying: Cut | None = None
        self._writing: Future[None] | None = None
        self._parent: Manifest | None = None
        self._levels: list[int] = []
        # Of the newest version of all, readable or not: a number is never reused, and a higher one
        # that appears later is another trainer's.
        self._number = directory.latest() or 0
        self.blocks: list[int] = []

    def resume(self, parent: Manifest, levels: list[int]) -> None:
        """Go on after this version."""
        self._parent, self._levels = parent, levels
        self._number = max(self._number, parent.number)

    @property
    def busy(self) -> bool:
        """Whether a version is being made. Raises what its writing raised."""
        if self._writing is not None and self._writing.done():
            self._writing.result()
            self._writing = None
        return self._copying is not None or self._writing is not None

    def cut(
        self, state: State, segment: Segment, position: Position, described: dict[str, Any]
    ) -> None:
        """Make a version of the state as it is now. Waits for the version before, if it must.

        `segment` is what histories gained since the version before.
        """
        self.wait()
        self._copying = Cut(
            StateCopy(state), segment, described, position, state.block, self.blocks,
            dict(state.counters), state.sizes(), state.histories.cursor,
        )  # fmt: skip
        self.blocks = []
        self.advance()

    def advance(self, whole: bool = False) -> None:
        """Copy one more slice of a version that was cut, or (there is nothing else to do) the
        whole rest, and have it written once everything is copied."""
        if self._copying is None:
            return
        if whole:
            self._copying.state.finish()
        else:
            self._copying.state.advance()
        if self._copying.state.finished:
            self._writing = self._pool.submit(self._write, self._copying)
            self._copying = None

    def wait(self) -> None:
        """Return when nothing is being made. Raises what the writing raised."""
        self.advance(whole=True)
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """Finish what is being written."""
        with contextlib.suppress(Exception):
            self.wait()
        self._pool.shutdown()

    def _write(self, cut: Cut) -> None:
        """Steps, in order, each safe to die after: (1) checkpoint, snapshot and history segment
        under the draft's own name; (2) sync the streams, or a power loss could take back records
        that the version counts as read; (3) the manifest, created only if absent: the commit;
        (4) the LATEST hint; (5) old versions go."""
        began, number = time.monotonic(), self._number + 1
        with self._directory.begin(number) as draft:
            levels = self._share_segments(draft, cut.segment)
            meta = {
                "largest_ms": cut.position.largest_ms,
                "history_cursor": cut.history_cursor,
                "segment_levels": levels,
            }
            Checkpoint(cut.state.tensors(), meta).write(draft)
            snapshot = cut.state.snapshot(number, cut.position.watermark_ms, cut.described)
            snapshot.quantized(exact=EXACT).write(draft)
            self._sync()
            manifest = draft.commit(self._manifest(number, cut))
        self._parent, self._levels, self._number = manifest, levels, number
        self._prune()
        self._committed(manifest, time.monotonic() - began)

    def _prune(self) -> None:
        try:
            self._directory.prune(self._keep)
        except VersionError as error:
            _log.error("old versions stay: %s", error)

    def _manifest(self, number: int, cut: Cut) -> Manifest:
        offsets = {
            topic: {str(p): offset for p, offset in partitions.items()}
            for topic, partitions in cut.position.offsets.items()
        }
        return Manifest(
            number=number,
            parent=self._parent.number if self._parent else None,
            created_at=time.time(),
            watermark_ms=cut.position.watermark_ms,
            block=cut.block,
            offsets=offsets,
            topic_ids=cut.position.topic_ids,
            blocks=cut.blocks,
            settings=self._settings,
            counters=cut.counters,
            metrics=cut.metrics,
        )

    def _share_segments(self, draft: Any, segment: Segment) -> list[int]:
        """Carry the parent's segments over, add the new one, merge full runs of a size."""
        names = list(self._parent.histories) if self._parent else []
        levels, pending = list(self._levels), [segment]
        level = 0
        while len(levels) >= MERGE - 1 and levels[-(MERGE - 1) :] == [level] * (MERGE - 1):
            older = [self._segment(name) for name in names[-(MERGE - 1) :]]
            pending = [compacted(concatenated([*older, *pending]), self._capacity)]
            del names[-(MERGE - 1) :], levels[-(MERGE - 1) :]
            level += 1
        for name in names:
            assert self._parent is not None
            draft.share(name, self._parent.files[name])
        draft.write("histories/segment.safetensors", pending[0].to_tensors())
        return [*levels, level]

    def _segment(self, name: str) -> Segment:
        assert self._parent is not None
        return Segment.from_tensors(self._directory.read(self._parent.number, name))
