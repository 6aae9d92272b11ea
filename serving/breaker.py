"""Whether a service that may be away is worth asking, so that its absence is not paid for by every
request."""

import logging
import threading

from prometheus_client import Gauge

log = logging.getLogger("serving.breaker")

LATE_ANSWERS = 3
"""So many answers in a row that did not come in time open the breaker."""


class Breaker:
    """Closed: ask. Open: do not, until a probe was answered in time. Thread-safe.

    Each outage and each recovery is logged once.
    """

    def __init__(self, name: str, up: Gauge) -> None:
        """up: 1 while closed."""
        self._name, self._up = name, up
        self._lock = threading.Lock()
        self._late = 0
        self.open = False
        up.set(1)

    def answered(self) -> None:
        """An answer came in time."""
        with self._lock:
            self._late = 0

    def late(self, detail: str) -> None:
        """An answer did not come in time. Once means little."""
        with self._lock:
            self._late += 1
            if self._late >= LATE_ANSWERS:
                self._open(detail)

    def failed(self, detail: str) -> None:
        """Nothing will come: the service is away."""
        with self._lock:
            self._open(detail)

    def probed(self) -> None:
        """A probe was answered in time: ask again."""
        with self._lock:
            if self.open:
                log.info("%s answers again", self._name)
            self.open, self._late = False, 0
            self._up.set(1)

    def _open(self, detail: str) -> None:
        if not self.open:
            log.error("%s is not asked until it answers again: %s", self._name, detail)
        self.open = True
        self._up.set(0)
