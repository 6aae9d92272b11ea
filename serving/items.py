"""Keeps the catalogue fresh: reads the topic `items` from its beginning and follows it.

A server knows of an item whatever the last record of it says; the trainer is not asked.
"""

import logging
import threading
from functools import partial

from service.action_types import ActionTypes
from service.blocks import Block
from service.errors import OffsetError, StreamError
from service.intake import Intake
from service.intake_settings import IntakeSettings
from service.metrics import ServingMetrics
from service.streams import Stream
from serving.catalogue import Catalogue, CatalogueStep
from serving.engine import Engine, Tables
from serving.settings import ServingSettings

log = logging.getLogger("serving.items")

TOPIC = "items"
RETRY_SECONDS = 1.0


class ItemFollower:
    """A thread that turns the log into the catalogue, a bounded block between two requests."""

    def __init__(
        self,
        stream: Stream,
        engine: Engine,
        metrics: ServingMetrics,
        types: ActionTypes,
        intake: IntakeSettings,
        serving: ServingSettings,
    ) -> None:
        self.caught_up = threading.Event()
        """Set once the end of the log was seen: what was hidden by then is."""
        self._stream, self._engine, self._metrics = stream, engine, metrics
        self._types, self._serving = types, serving
        # One item's records share a partition, so nothing is waited for.
        self._intake = intake.model_copy(update={"topics": (TOPIC,), "idle_ms": 0})
        self._catalogue = Catalogue(serving.item_filters)
        self._woken = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="items", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
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
        intake: Intake | None = None
        while not self._stopped:
            self._woken.clear()
            try:
                if intake is None:
                    intake = self._begin()
                block = intake.block(self._serving.history_records, wait_seconds=0.0)
                if block is None and (self.caught_up.is_set() or intake.at_end):
                    self.caught_up.set()
            except StreamError as error:
                # Rankings go on with what is known; a log that was cut or made anew is read anew.
                log.error("the log of items cannot be read: %s", error)
                intake = None if isinstance(error, OffsetError) else intake
                self.caught_up.set()
                self._woken.wait(RETRY_SECONDS)
                continue
            if block is not None:
                self._apply(block)
            else:
                self._woken.wait(self._serving.history_poll_seconds)

    def _begin(self) -> Intake:
        """The whole log, into an empty catalogue."""
        intake = Intake(self._stream, self._intake, self._types)
        self._catalogue = Catalogue(self._serving.item_filters)
        self._engine.do(partial(_replace, self._catalogue))
        return intake

    def _apply(self, block: Block) -> None:
        count = self._metrics.items_total.labels
        count("rejected").inc(len(block.rejected))
        try:
            step = self._catalogue.prepare(block.described)
            self._engine.do(partial(_describe, step))
        except Exception:
            # One block that cannot be applied must not end all freshness.
            log.exception("a block of %d items was not applied", block.records)
            return
        deleted = sum(one.deleted for one in block.described)
        count("deleted").inc(deleted)
        count("described").inc(len(block.described) - deleted)


def _replace(catalogue: Catalogue, tables: Tables) -> None:
    tables.catalogue = catalogue


def _describe(step: CatalogueStep, tables: Tables) -> None:
    tables.catalogue.apply(step, tables.ranker)
