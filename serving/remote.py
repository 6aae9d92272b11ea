"""Histories in Redis: one read per ranking, bounded in time, and what was seen last if it fails.

Nothing here follows the log: `freshet histories` does. What this follows is how far that role has
come, and operators' decisions, so that nobody is ranked by what was erased.
"""

import asyncio
import logging
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from service.errors import FreshetError
from service.histories.local import Histories
from service.histories.redis.store import HistoryStore
from service.histories.redis.values import EVER_MS, ValueDamaged, history_of
from service.histories.settings import HistorySettings
from service.histories.starting import TOPIC
from service.metrics import ServingMetrics
from service.redis.connection import RedisAway, connect
from service.redis.settings import RedisSettings
from service.streams import Stream
from service.versions import VersionDirectory
from serving.breaker import Breaker
from serving.engine import Tables
from serving.last_seen import LastSeen
from serving.settings import ServingSettings
from serving.sources import History
from serving.value_reader import ValueReader

log = logging.getLogger("serving.remote")


class RemoteHistories:
    """A `HistorySource` whose histories lie in Redis."""

    def __init__(
        self,
        directory: VersionDirectory,
        stream: Stream,
        redis: RedisSettings,
        histories: HistorySettings,
        metrics: ServingMetrics,
        serving: ServingSettings,
    ) -> None:
        self.caught_up = threading.Event()
        """Set once the operators' decisions are known and Redis was asked; it may be away."""
        self.obeyed = 0
        self._directory, self._stream = directory, stream
        self._histories, self._metrics = histories, metrics
        self._wait_seconds, self._retry_seconds = redis.wait_ms / 1000, redis.retry_seconds
        self._poll_seconds = serving.poll_seconds
        # A read that was given up holds up those after it: not for longer than a retry.
        self._clients = [connect(redis, redis.retry_seconds) for _ in range(2)]
        values, self._store = (
            HistoryStore(client, redis.prefix, histories) for client in self._clients
        )
        self._seen = LastSeen(redis.cache_bytes)
        self._breaker = Breaker("Redis", metrics.redis_up)
        self._reader = ValueReader(
            values, self._seen, self._breaker, self._wait_seconds, self._retry_seconds
        )
        self._erased: dict[int, int] = {}
        self._generation = 0
        self._watermark_ms = 0
        self._trouble = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="decisions", daemon=True)

    def start(self) -> None:
        """Begin to read values and to follow decisions."""
        self._reader.start()
        self._thread.start()

    def wake(self) -> None:
        """The writer of the histories looks into the log by itself."""

    def close(self) -> None:
        """Stop, and let go of the connections."""
        self._stopped.set()
        self._thread.join()
        self._reader.close()
        for client in self._clients:
            client.close()

    async def of(self, user_key: int) -> History:
        """The history in Redis, or within the bound on the wait what was seen of it last."""
        began = time.perf_counter()
        value, outcome = await self._value(user_key)
        erased_ms = self._erased.get(user_key, EVER_MS)
        try:
            history = history_of(value, self._histories, self._watermark_ms, erased_ms)
        except ValueDamaged:
            outcome, history = "damaged", history_of(None, self._histories)
        self._metrics.history_reads_total.labels(outcome).inc()
        self._metrics.history_read_seconds.observe(time.perf_counter() - began)
        return _given(history)

    async def _value(self, user_key: int) -> tuple[bytes | None, str]:
        """The value, and how it was come by."""
        if self._breaker.open:
            return self._last(user_key)
        asked = self._reader.ask(user_key)
        await _done(asked, self._wait_seconds)
        if not asked.done():
            self._breaker.late(f"no answer within {self._wait_seconds * 1000:g} ms")
            return self._last(user_key)
        if asked.exception() is not None:
            return self._last(user_key)
        self._breaker.answered()
        value = asked.result()
        return value, "missing" if value is None else "hit"

    def _last(self, user_key: int) -> tuple[bytes | None, str]:
        value = self._seen.get(user_key)
        return value, "lost" if value is None else "stale"

    def _follow(self) -> None:
        while not self._stopped.is_set():
            decided = self._decide()
            self._look()
            if decided and self._reader.tried.is_set():
                self.caught_up.set()
            self._stopped.wait(self._poll_seconds)

    def _decide(self) -> bool:
        """Read operators' decisions; whether that is done."""
        try:
            decisions = self._directory.decisions()
        except (FreshetError, OSError) as error:
            if self._trouble != str(error):
                log.error("the operators' decisions cannot be read: %s", error)
            self._trouble = str(error)
            return False
        self._trouble = ""
        if decisions.generation != self._generation:
            self._erased = dict(decisions.erased)
            self._generation = decisions.generation
        return True

    def _look(self) -> None:
        """Ask how far the values in Redis go. A decision is obeyed when they obey it, too."""
        self._metrics.history_cache_bytes.set(self._seen.nbytes)
        if self._breaker.open:
            return
        try:
            progress = self._store.progress(self._stream.topic_id(TOPIC))
        except RedisAway as error:
            self._breaker.failed(str(error))
        except FreshetError as error:
            log.debug("the log cannot be asked for its identity: %s", error)
        else:
            if progress is not None:
                self._watermark_ms = max(self._watermark_ms, progress.watermark_ms)
                self._obey(min(self._generation, progress.obeyed))

    def _obey(self, generation: int) -> None:
        """Redis holds nothing of the erased any more; nor does what was read before that."""
        if generation != self.obeyed:
            self._seen.drop(self._erased)
        self.obeyed = generation


async def _done(asked: "Future[Any]", seconds: float) -> None:
    """Return when it is done, or the time is over. Nobody needs to take its result."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    def tell(_: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(wake)

    asked.add_done_callback(tell)
    await asyncio.wait({woken}, timeout=seconds)


def _given(history: Histories) -> History:
    def give(_: Tables) -> Histories:
        return history

    return give
