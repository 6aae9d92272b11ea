"""Versions are cut at a block boundary and written in a thread of their own."""

import contextlib
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from service.errors import VersionError, VersionExists
from service.histories.segments import Segment
from service.metrics import TrainerMetrics
from trainer.cuts import Cut, Orders, Position
from trainer.gate import Gate
from trainer.state import State
from trainer.writing import Writer

_log = logging.getLogger(__name__)


class Publisher:
    """One version at a time and in order, while training goes on.

    A version that cannot be written (a full disk, storage that is away) is no reason to stop
    learning: what it held counts as changed again, and is part of the next one.
    """

    def __init__(self, writer: Writer, gate: Gate, metrics: TrainerMetrics) -> None:
        self._writer, self.gate, self._metrics = writer, gate, metrics
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="publish")
        self._writing: Future[None] | None = None
        self._failed: tuple[Cut, Exception] | None = None
        self.blocks: list[int] = []
        """Records in each block since the last cut."""

    @property
    def busy(self) -> bool:
        """Whether a version is being made. Raises what ended the making for good."""
        if self._writing is not None and self._writing.done():
            self.wait()
        return self._writing is not None

    @property
    def failed(self) -> bool:
        """Whether the last version was not written, so that another attempt is due."""
        return self._failed is not None

    def cut(
        self,
        state: State,
        segment: Segment,
        position: Position,
        model: dict[str, Any],
        metrics: dict[str, float],
        orders: Orders,
    ) -> None:
        """Make a version of the state as it is now. Waits for the version before, if it must.

        `segment` is what histories gained since the cut before; `model` describes the model to
        servers, `metrics` are for its manifest.
        """
        self.wait()
        failed, self._failed = self._failed, None
        if failed is not None:
            state.put_back(failed[0].delta)
        whole = self._writer.whole
        cut = Cut(
            state.cut(whole), whole, segment, self.gate.gather(state, position.watermark_ms),
            model, position, state.block, self.blocks, dict(state.counters),
            state.sizes() | metrics, state.histories.cursor, orders, state.joiner.join_from,
        )  # fmt: skip
        self.blocks = []
        cut = cut if failed is None else cut.with_earlier(failed[0])
        self._writing = self._pool.submit(self._write, cut)

    def wait(self) -> None:
        """Return when nothing is being made. Raises what ended the making for good."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def finish(self) -> None:
        """Like `wait`, and raises VersionError if the last version could not be written."""
        self.wait()
        if self._failed is not None:
            raise VersionError(f"what was learned last is not in a version: {self._failed[1]}")

    def close(self) -> None:
        """Finish what is being made."""
        with contextlib.suppress(Exception):
            self.wait()
        self._pool.shutdown()

    def _write(self, cut: Cut) -> None:
        """Write the version, or keep the cut for the next attempt."""
        began, number = time.monotonic(), self._writer.number
        try:
            manifest = self._writer.write(cut)
        except VersionExists:
            raise  # another trainer is ahead: this one must not go on
        except (OSError, VersionError) as error:
            # What cannot be read any more is not built upon.
            self._writer.whole = cut.whole or isinstance(error, VersionError)
            self._failed = cut, error
            self._metrics.publish_failures_total.inc()
            _log.error("version %d was not written and is tried again: %s", number, error)
            return
        self._metrics.version.set(manifest.number)
        self._metrics.publish_seconds.observe(time.monotonic() - began)
        if manifest.held:
            _log.warning("version %d is not for servers: %s", manifest.number, manifest.held)
