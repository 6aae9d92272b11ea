"""The job: take the next block, learn it, and publish a version when it is time."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import msgspec

from service.blocks import Block
from service.errors import StreamError
from service.intake import Intake
from service.metrics import TrainerMetrics
from service.model.calibration import CALIBRATION
from service.model.ranker import described
from service.streams import Stream
from trainer.cuts import Position
from trainer.measures import Measures
from trainer.operators import Operators
from trainer.publish import Publisher
from trainer.reading import Read, ReadAhead
from trainer.settings import TrainerSettings
from trainer.teaching import Teacher

_log = logging.getLogger(__name__)

MEASURE_SECONDS = 0.5
RETRY_SECONDS = 1.0


class Trainer:
    """The loop and its clock; `Teacher` does what is done with a block."""

    def __init__(
        self,
        stream: Stream,
        intake: Intake,
        teacher: Teacher,
        publisher: Publisher,
        operators: Operators,
        settings: TrainerSettings,
        metrics: TrainerMetrics,
    ) -> None:
        self.stream, self.intake, self.teacher = stream, intake, teacher
        self.publisher, self.operators = publisher, operators
        self.settings, self.metrics = settings, metrics
        self.position = Position(
            intake.offsets,
            {topic: stream.topic_id(topic) for topic in intake.offsets},
            intake.largest_ms,
            intake.watermark_ms,
        )
        """Behind the last block that was learned or is being learned; the intake is ahead."""
        self._published_ms = self._clock_ms()
        self._changed = self._ran = False
        self._measured = 0.0
        self.measures = Measures(teacher, metrics)

    def run(self, stop: threading.Event, ended: Callable[[], bool] | None = None) -> None:
        """Train until `stop` is set; what was trained is published before it returns.

        With `ended`, blocks are full however long that takes, so that a replay repeats bit for
        bit, and the run is over once `ended()` holds and everything was trained. Once only: what
        was read ahead and not trained is dropped at the end, and read again by a new trainer.
        """
        if self._ran:
            raise RuntimeError("a trainer runs once; build another one to go on")
        self._ran = True
        self._obey()
        records, wait_seconds = self.settings.block_records, self.settings.block_ms / 1000
        ahead = ReadAhead(self.intake, records, wait_seconds, ended, stop.is_set)
        with closing(ahead) as blocks:
            for read in blocks:
                if stop.is_set():
                    break
                if read is not None:
                    self._train(read, stop)
                if time.monotonic() - self._measured > MEASURE_SECONDS:
                    self._measure()
                if self._due():
                    self._obey()
                    if self._changed or self.publisher.failed:
                        self.publish()
        self._obey()
        if self._changed or self.publisher.failed:
            self.publish()
        self.publisher.finish()
        self._measure()

    def publish(self) -> None:
        """Cut a version of the state as it is now; it is written while training goes on."""
        began = time.monotonic()
        state = self.teacher.state
        heads = state.counters["targets_trained"] > 0
        model = described(state.learner.network.settings, self.teacher.types, heads)
        if heads:
            maps = state.learner.calibrator.fitted()
            model[CALIBRATION] = maps.described(self.teacher.types.types)
        errors = {
            f"calibration.{action}.{chance}": error
            for (action, chance), error in self.teacher.calibration_errors().items()
        }
        orders, segment = self.operators.orders(), self.teacher.segments.take()
        self.publisher.cut(state, segment, self.position, model, errors, orders)
        self._published_ms, self._changed = self._clock_ms(), False
        self.position = replace(self.position, first_append_ms=0)
        self.metrics.publish_stall_seconds.observe(time.monotonic() - began)

    def _obey(self) -> None:
        """Do what operators have decided since the last version."""
        if self.operators.obey(self.teacher, self.publisher):
            self._changed = True

    def _train(self, read: Read, stop: threading.Event) -> None:
        """Learn a block, or none of it where `stop` came while the stream was away."""
        began, block = time.monotonic(), read.block.without(self.operators.erased)
        if not self._rejected(block, stop):
            return
        self.position = self.position.behind(block, read.largest_ms)
        if block.erased:
            self.teacher.state.counters["erased"] += block.erased
        self.teacher.teach(block)
        self.publisher.blocks.append(block.records)
        self._changed = True
        self.metrics.step_seconds.observe(time.monotonic() - began)

    def _measure(self) -> None:
        """Refresh the metrics. The lag is what was not learned, read or not."""
        self._measured = time.monotonic()
        self.measures.take(self.position, self.stream.lag(self.position.offsets))

    def _rejected(self, block: Block, stop: threading.Event) -> bool:
        """Tell the `rejected` topic what could not be read, and count it by reason. While the
        stream does not take it the block is not learned: False if `stop` ended the attempts.

        A block that is read again after a crash is told again: the place in each record says so.
        """
        payloads = [msgspec.json.encode(one) for one in block.rejected]
        while payloads:
            try:
                self.stream.append("rejected", 0, payloads)
                break
            except StreamError as error:
                _log.error("what was rejected is not told yet, and is tried again: %s", error)
                if stop.wait(RETRY_SECONDS):
                    return False
        for one in block.rejected:
            self.teacher.state.counters[f"rejected_{one.reason}"] += 1
            self.metrics.rejected_total.labels(one.reason).inc()
        return True

    def _due(self) -> bool:
        wall = self.settings.publish_clock == "wall"
        if wall and self.publisher.busy:
            return False
        return self._clock_ms() - self._published_ms >= self.settings.publish_seconds * 1000

    def _clock_ms(self) -> float:
        if self.settings.publish_clock == "event":
            return float(self.position.watermark_ms)
        return time.monotonic() * 1000
