"""When a call is made again: after growing random waits, until its time is over.

Waits are drawn between nothing and a bound that doubles, so that clients that failed together do
not come back together. A server that says when to come back is not asked before.
"""

import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import httpx

from service.client.questions import Outcome

FIRST_SECONDS, LONGEST_SECONDS = 0.1, 5.0
"""Bounds of the first wait and of any."""
BUSY = 429
"""Nothing of the request was done."""
AWAY = (502, 503, 504)
"""The server, or one before it, could not do it now; part of it may have been done."""
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
LOST = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)


class Attempts:
    """The attempts of one call."""

    def __init__(
        self,
        repeatable: bool,
        timeout_seconds: float,
        patience_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._repeatable, self._longest = repeatable, timeout_seconds
        self._over_at = clock() + patience_seconds
        self._clock, self._draw = clock, draw
        self._failed = 0

    @property
    def timeout_seconds(self) -> float:
        """How long the next attempt may take; a repeat no longer than what is left."""
        if not self._failed:
            return self._longest
        return min(self._longest, max(0.001, self._over_at - self._clock()))

    def wait(self, outcome: Outcome) -> float | None:
        """Seconds after which to ask again; None when this is what the call comes to."""
        if not self._may_repeat(outcome):
            return None
        bound = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0**self._failed)
        self._failed += 1
        seconds = _asked_wait(outcome) + bound * self._draw()
        return seconds if self._clock() + seconds < self._over_at else None

    def _may_repeat(self, outcome: Outcome) -> bool:
        if isinstance(outcome, httpx.TransportError):
            return isinstance(outcome, UNSENT) or (self._repeatable and isinstance(outcome, LOST))
        status = outcome.status_code
        return status == BUSY or (self._repeatable and status in AWAY)


def _asked_wait(outcome: Outcome) -> float:
    """What Retry-After says, in seconds or as a date; 0 without it."""
    said = outcome.headers.get("Retry-After", "") if isinstance(outcome, httpx.Response) else ""
    if said.isdecimal():
        return float(said[:9])
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return 0.0
