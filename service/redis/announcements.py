"""A committed version is announced on a channel, so that servers need not wait for their next look.

A hint and no more: servers look by themselves as well, and whoever cannot announce says so and goes
on.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from prometheus_client import Counter

from service.redis.connection import RedisAway, connect, redis_errors
from service.redis.settings import RedisSettings

log = logging.getLogger(__name__)

LISTEN_SECONDS = 0.25
"""How soon a listener notices that it is to stop."""
CHECK_SECONDS = 10
"""A connection that was silent for so long is asked whether it still lives."""


def channel(settings: RedisSettings) -> str:
    """Where the numbers of new versions are published."""
    return f"{settings.prefix}versions"


class Announcer:
    """Publishes version numbers. `announcements` counts them by outcome: sent or failed."""

    def __init__(self, settings: RedisSettings, announcements: Counter) -> None:
        self._channel, self._announcements = channel(settings), announcements
        self._client = connect(settings, settings.connect_seconds)
        self._away = False

    def __call__(self, number: int) -> None:
        """Announce a version. Never raises, and waits for `connect_seconds` at most twice."""
        try:
            with redis_errors():
                self._client.publish(self._channel, str(number))
        except RedisAway as error:
            if not self._away:
                log.warning("versions are not announced, servers look by themselves: %s", error)
            self._away = True
            self._announcements.labels("failed").inc()
        else:
            self._away = False
            self._announcements.labels("sent").inc()


class Listener:
    """A thread that calls `heard` for every announcement, and whenever it may have missed some."""

    def __init__(self, settings: RedisSettings, heard: Callable[[], None]) -> None:
        self._channel, self._heard = channel(settings), heard
        self._client = connect(settings, check_seconds=CHECK_SECONDS)
        self._retry_seconds = settings.retry_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="announcements", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._stopped.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with redis_errors():
                    self._listen()
            except RedisAway as error:
                # Whoever reads histories says that Redis is away.
                log.debug("announcements are not heard: %s", error)
                self._stopped.wait(self._retry_seconds)

    def _listen(self) -> None:
        with self._client.pubsub() as subscription:  # type: ignore[no-untyped-call]
            subscription.subscribe(self._channel)
            while not self._stopped.is_set():
                message: Any = subscription.get_message(timeout=LISTEN_SECONDS)
                if message is not None and message["type"] in ("subscribe", "message"):
                    self._heard()
