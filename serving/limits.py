"""How much one key and one user may send. All of it is counted in this process alone."""

import math
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

from pydantic import Field

from service.actions import MAX_LIST
from service.settings import Section
from serving.problems import Problem

MAX_BATCH = 10_000
Clock = Callable[[], float]


class LimitSettings(Section):
    """The `[limits]` section. Rates are off unless set; a key's entry may say otherwise."""

    candidates: int = Field(MAX_LIST, ge=1, le=MAX_LIST)
    """Most candidates of one `/v1/rank` request; more are answered with 422."""
    batch_records: int = Field(MAX_BATCH, ge=1, le=MAX_BATCH)
    """Most records of one posted batch; more are answered with 422."""
    rankings_per_second: float | None = Field(None, gt=0)
    """Rankings that a key may ask for; beyond it the answer is 429."""
    records_per_second: float | None = Field(None, gt=0)
    """Records (actions, impressions, items) that a key may post; beyond it the answer is 429."""
    user_actions_per_second: float | None = Field(None, gt=0)
    """Actions that are taken of one user; each beyond it is rejected with `rate_limited`."""
    burst_seconds: float = Field(10.0, ge=1)
    """What was not used is saved for so long, and may come at once."""
    tracked_users: int = Field(65_536, ge=1)
    """Users whose rate is known; of more, those seen longest ago start anew."""


class Bucket:
    """Tokens that come at a rate up to a burst. Safe for several threads.

    A batch of more tokens than the burst passes when the bucket is full, and leaves it in debt: the
    rate holds, however records are packed.
    """

    def __init__(
        self, per_second: float | None, burst_seconds: float, clock: Clock = time.monotonic
    ) -> None:
        self.per_second = per_second
        self._rate = per_second or 0.0
        self._burst = max(1.0, self._rate * burst_seconds)
        self._clock = clock
        self._tokens, self._at = self._burst, clock()
        self._lock = threading.Lock()

    def take(self, amount: int) -> float:
        """Take tokens. Returns 0, or the seconds after which they would be there; then none are."""
        if self.per_second is None:
            return 0.0
        with self._lock:
            wait = self._wait(amount)
            if wait == 0.0:
                self._tokens -= amount
            return wait

    def wait(self, amount: int = 1) -> float:
        """Seconds until so many tokens are there; takes none."""
        if self.per_second is None:
            return 0.0
        with self._lock:
            return self._wait(amount)

    def _wait(self, amount: int) -> float:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (min(amount, self._burst) - self._tokens) / self._rate)


class UserRates:
    """A bucket per user in bounded memory: 64-bit key -> the time at which it is full again.

    A user who is not in the table has a full bucket, so that forgetting one whose time is over
    forgets nothing. Only when more users than the table holds act within a burst do some start
    anew too early. Safe for several threads.
    """

    def __init__(
        self,
        per_second: float | None,
        burst_seconds: float,
        tracked: int,
        clock: Clock = time.monotonic,
    ) -> None:
        self._spacing = 0.0 if per_second is None else 1.0 / per_second
        self._slack = max(self._spacing, burst_seconds)
        self._tracked = tracked
        self._full_at: dict[int, float] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._full_at)

    def takes(self, user_key: int) -> bool:
        """Whether one more action of this user is within the rate; if so it is counted."""
        if not self._spacing:
            return True
        with self._lock:
            now = self._clock()
            full_at = max(self._full_at.get(user_key, now), now) + self._spacing
            if full_at - now > self._slack + 1e-9:
                return False
            self._full_at.pop(user_key, None)  # the newest stands last
            self._full_at[user_key] = full_at
            if len(self._full_at) > self._tracked:
                del self._full_at[next(iter(self._full_at))]
            return True


def too_many(what: str, bucket: Bucket, wait_seconds: float) -> Problem:
    """429: this key is over its rate."""
    seconds = math.ceil(wait_seconds)
    return Problem(
        "rate-limited",
        HTTPStatus.TOO_MANY_REQUESTS,
        f"this key may send {bucket.per_second:g} {what} a second; try again in {seconds} s",
        headers={"Retry-After": str(seconds)},
    )
