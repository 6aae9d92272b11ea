"""Logs what was returned as shown, without ever keeping an answer waiting."""

import logging
import queue
import threading

from prometheus_client import Counter

from service.actions import Impression
from service.errors import StreamError
from service.streams.protocol import Stream
from serving.batches import append_by_user

log = logging.getLogger("serving.impressions")

TOPIC = "impressions"
BATCH = 512


class ImpressionLog:
    """A bounded queue before the stream: what does not fit is dropped and counted."""

    def __init__(self, stream: Stream, capacity: int, dropped: Counter) -> None:
        self._stream = stream
        self._dropped = dropped
        self._queue: queue.Queue[Impression | None] = queue.Queue(capacity)
        # With a batch no longer than the queue, twice the capacity bounds what can be in memory.
        self._batch = min(BATCH, capacity)
        self._thread = threading.Thread(target=self._run, name="impressions", daemon=True)

    def start(self) -> None:
        """Begin to append."""
        self._thread.start()

    def offer(self, impression: Impression) -> None:
        """Log the impression soon, or drop it if the queue is full. Never blocks."""
        try:
            self._queue.put_nowait(impression)
        except queue.Full:
            self._dropped.inc()

    @property
    def waiting(self) -> int:
        """Impressions in the queue."""
        return self._queue.qsize()

    def close(self) -> None:
        """Append what waits, then stop."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            while len(batch) < self._batch and not self._queue.empty():
                if (following := self._queue.get()) is None:
                    self._append(batch)
                    return
                batch.append(following)
            self._append(batch)

    def _append(self, batch: list[Impression]) -> None:
        try:
            append_by_user(self._stream, TOPIC, batch)
        except (StreamError, OSError) as error:
            self._dropped.inc(len(batch))
            log.error("impressions dropped: the log did not take them: %s", error)
