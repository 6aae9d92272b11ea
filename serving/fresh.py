"""Keeps the histories fresh: restores them from a version, then follows the stream.

It needs no trainer: an action changes rankings as soon as it is in the log and read here. Users
whom an operator erased are forgotten, in what was restored and in what is read from then on.
"""

import logging
import math
import threading
import time
from functools import partial

from service.action_types import ActionTypes
from service.blocks import Block
from service.errors import OffsetError, StreamError, VersionError
from service.histories.erased import Erased, erase_from
from service.histories.segments import Segment
from service.histories.starting import TOPIC, alone, intake_after, intake_again, newest_histories
from service.intake import Intake
from service.intake_settings import IntakeSettings
from service.metrics import ServingMetrics
from service.streams import Stream
from service.versions import Manifest, VersionDirectory
from serving.engine import Engine, Tables
from serving.settings import ServingSettings

log = logging.getLogger("serving.fresh")

SWEEP_USERS = 512
"""Users looked at per block for histories whose time has come."""
RETRY_SECONDS = 1.0


class HistoryFollower:
    """A thread that turns the log into histories, a bounded block between two requests."""

    def __init__(
        self,
        directory: VersionDirectory,
        stream: Stream,
        engine: Engine,
        metrics: ServingMetrics,
        types: ActionTypes,
        intake: IntakeSettings,
        serving: ServingSettings,
    ) -> None:
        self.caught_up = threading.Event()
        """Set once the histories are restored and the end of the log was seen."""
        self.obeyed = 0
        """Number of the last operator's decision that these histories know of."""
        self._directory = directory
        self._stream = stream
        self._engine = engine
        self._metrics = metrics
        self._types = types
        self._intake_settings = alone(intake)
        self._erased = Erased.of({})
        self._looked = -math.inf
        self._decisions_seconds = serving.poll_seconds
        self._poll_seconds = serving.history_poll_seconds
        self._records = serving.history_records
        self._topic_id = ""
        """Of the log that is followed."""
        self._woken = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="histories", daemon=True)

    def start(self) -> None:
        """Begin to restore and to follow."""
        self._thread.start()

    def wake(self) -> None:
        """Something was appended by this process: read it now."""
        self._woken.set()

    def close(self) -> None:
        """Stop following."""
        self._stopped = True
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        manifest = self._restored()
        self._obey_first()
        intake = self._begin(manifest)
        while intake is not None and not self._stopped:
            self._woken.clear()
            if time.monotonic() - self._looked >= self._decisions_seconds:
                self._obey()
            try:
                block = intake.block(self._records, wait_seconds=0.0)
                if block is None and (self.caught_up.is_set() or intake.at_end):
                    self.caught_up.set()
            except OffsetError as error:
                self._complain(error)
                intake = self._again(intake)
                continue
            except StreamError as error:
                self._complain(error)
                continue
            if block is not None:
                self._apply(block.without(self._erased))
            else:
                self._woken.wait(self._poll_seconds)

    def _again(self, before: Intake) -> Intake | None:
        """The log as it is now, where it is no longer the one that was followed."""
        while not self._stopped:
            try:
                again = intake_again(
                    self._stream, self._intake_settings, self._types, before, self._topic_id
                )
                self._topic_id = self._stream.topic_id(TOPIC)
                return again
            except StreamError as error:
                self._complain(error)
        return None

    def _begin(self, manifest: Manifest | None) -> Intake | None:
        """The log from where the restored histories end; None when stopped before it was there."""
        while not self._stopped:
            try:
                self._topic_id = self._stream.topic_id(TOPIC)
                return intake_after(self._stream, self._intake_settings, self._types, manifest)
            except OffsetError as error:
                # Another log than the one that was trained on: better its history than none.
                log.error("the log does not go on where the version ends: %s", error)
                manifest = None
            except StreamError as error:
                self._complain(error)
                self._obey()
        return None

    def _complain(self, error: StreamError) -> None:
        """The log is away: rankings go on with the histories there are."""
        log.error("the log cannot be read: %s", error)
        self.caught_up.set()
        self._woken.wait(RETRY_SECONDS)

    def _restored(self) -> Manifest | None:
        """The newest version whose histories can be read; None without any. Storage that is away
        is waited for."""
        while not self._stopped:
            try:
                return self._restore()
            except (OSError, VersionError) as error:
                log.error("versions cannot be listed: %s", error)
                self._woken.wait(RETRY_SECONDS)
        return None

    def _restore(self) -> Manifest | None:
        found = newest_histories(self._directory)
        if found is None:
            return None
        manifest, segments = found
        for segment in segments:
            self._engine.do(partial(_restore, segment))
        self._engine.do(partial(_reach, manifest.watermark_ms))
        return manifest

    def _obey_first(self) -> None:
        """What was restored may be older than a decision: nothing is ranked with it before."""
        while not self._stopped and not self._obey():
            self._woken.wait(RETRY_SECONDS)
            self._woken.clear()

    def _obey(self) -> bool:
        """Forget whom decisions erased since the last look; False if they cannot be read."""
        self._looked = time.monotonic()
        try:
            decisions = self._directory.decisions()
        except (VersionError, OSError) as error:
            log.error("the operators' decisions cannot be read: %s", error)
            return False
        if decisions.generation != self.obeyed:
            erased = Erased.of(decisions.erased)
            self._engine.do(partial(_erase, erased.since(self._erased)))
            self._erased, self.obeyed = erased, decisions.generation
        return True

    def _apply(self, block: Block) -> None:
        try:
            self._engine.do(partial(_append, block))
        except Exception:
            # One block that cannot be applied must not end all freshness.
            log.exception("a block of %d records was not applied to the histories", block.records)
        self._metrics.history_records_total.inc(block.records)
        waited_seconds = time.time() - block.first_append_ms / 1000
        self._metrics.action_to_history_seconds.observe(max(0.0, waited_seconds))
        self._metrics.histories_users.set(self._engine.do(lambda tables: len(tables.histories)))


def _append(block: Block, tables: Tables) -> None:
    _reach(block.watermark_ms, tables)
    tables.histories.append(block.events, block.watermark_ms)
    tables.histories.expire(block.watermark_ms, SWEEP_USERS)


def _reach(watermark_ms: int, tables: Tables) -> None:
    tables.watermark_ms = max(tables.watermark_ms, watermark_ms)


def _restore(segment: Segment, tables: Tables) -> None:
    segment.restore(tables.histories)


def _erase(erased: Erased, tables: Tables) -> None:
    erase_from(tables.histories, erased)
    tables.readings.drop(erased.user_M.tolist())
