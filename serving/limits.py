"""How much one key and one user may send, counted for all HTTP workers of a server together."""

import math
import time
from collections.abc import Callable
from http import HTTPStatus

from pydantic import Field

from service.actions import MAX_LIST
from service.settings import Section
from serving.problems import Problem
from serving.times import WAYS, OwnTimes, SharedTimes, Times, shared_file

MAX_BATCH = 10_000
KEY_SETS = 1024
MAX_KEYS = KEY_SETS * WAYS
"""Keys, each for rankings and for records, whose rate is known."""
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


class Spent:
    """Where it is counted what keys and users have sent."""

    def __init__(self, keys: Times, users: Times) -> None:
        self.keys, self.users = keys, users

    @classmethod
    def here(cls, limits: LimitSettings) -> "Spent":
        """By this process alone."""
        return cls(OwnTimes(MAX_KEYS), OwnTimes(limits.tracked_users))

    @classmethod
    def file(cls, limits: LimitSettings) -> int:
        """Descriptor of memory that several processes count in."""
        return shared_file(KEY_SETS + _user_sets(limits))

    @classmethod
    def shared(cls, file: int, limits: LimitSettings) -> "Spent":
        """By all processes that inherited the descriptor."""
        users = SharedTimes(file, KEY_SETS, _user_sets(limits))
        return cls(SharedTimes(file, 0, KEY_SETS), users)


def _user_sets(limits: LimitSettings) -> int:
    """Twice the room, so that few sets are full before the table is."""
    return max(1, 2 * limits.tracked_users // WAYS)


class Bucket:
    """Tokens that come at a rate up to a burst. Safe for several threads, and processes if `times`
    is.

    All that is kept is when it is full again: a virtual scheduling algorithm (ITU-T I.371, GCRA). A
    batch of more tokens than the burst passes when the bucket is full, and leaves it in debt: the
    rate holds, however records are packed.
    """

    def __init__(
        self,
        per_second: float | None,
        burst_seconds: float,
        clock: Clock = time.monotonic,
        times: Times | None = None,
        key: int = 0,
    ) -> None:
        self.per_second = per_second
        self._rate = per_second or 0.0
        self._burst = max(1.0, self._rate * burst_seconds)
        self._clock, self._key = clock, key
        self._times = OwnTimes(1) if times is None else times

    def take(self, amount: int) -> float:
        """Take tokens. Returns 0, or the seconds after which they would be there; then none are."""
        return self._wait(amount, amount)

    def wait(self, amount: int = 1) -> float:
        """Seconds until so many tokens are there; takes none."""
        return self._wait(amount, 0)

    def _wait(self, amount: int, taken: int) -> float:
        if self.per_second is None:
            return 0.0
        wait = 0.0

        def take(full_at: float) -> float | None:
            nonlocal wait
            now = self._clock()
            full_at = max(full_at, now)
            tokens = self._burst - (full_at - now) * self._rate
            wait = max(0.0, (min(amount, self._burst) - tokens) / self._rate)
            return full_at + taken / self._rate if taken and not wait else None

        self._times.change(self._key, take)
        return wait


class UserRates:
    """A bucket per user: 64-bit key -> the time at which it is full again.

    Only when more users than the table holds act within a burst do some start anew too early.
    """

    def __init__(
        self,
        per_second: float | None,
        burst_seconds: float,
        times: Times,
        clock: Clock = time.monotonic,
    ) -> None:
        self._spacing = 0.0 if per_second is None else 1.0 / per_second
        self._slack = max(self._spacing, burst_seconds)
        self._times, self._clock = times, clock

    def takes(self, user_key: int) -> bool:
        """Whether one more action of this user is within the rate; if so it is counted."""
        if not self._spacing:
            return True
        taken = False

        def take(full_at: float) -> float | None:
            nonlocal taken
            now = self._clock()
            full_at = max(full_at, now) + self._spacing
            taken = full_at - now <= self._slack + 1e-9
            return full_at if taken else None

        self._times.change(user_key, take)
        return taken


def too_many(what: str, bucket: Bucket, wait_seconds: float) -> Problem:
    """429: this key is over its rate."""
    seconds = math.ceil(wait_seconds)
    return Problem(
        "rate-limited",
        HTTPStatus.TOO_MANY_REQUESTS,
        f"this key may send {bucket.per_second:g} {what} a second; try again in {seconds} s",
        headers={"Retry-After": str(seconds)},
    )
