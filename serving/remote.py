"""Histories in Redis: one read per ranking, bounded in time, and what was seen last if it fails.

Nothing here follows the log: `freshet histories` does. What this follows is how far that role has
come, and operators' decisions, so that nobody is ranked by what was erased.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from service.errors import FreshetError
from service.histories.local import Histories
from service.histories.redis.store import HistoryStore
from service.histories.redis.values import EVER_MS, ValueDamaged, history_of
from service.histories.settings import HistorySettings
from service.histories.starting import TOPIC
from service.metrics import ServingMetrics
from service.redis.connection import RedisAway, RedisSlow, connect
from service.redis.settings import RedisSettings
from service.streams import Stream
from service.versions import VersionDirectory
from serving.breaker import Breaker
from serving.last_seen import LastSeen
from serving.settings import ServingSettings

log = logging.getLogger("serving.remote")

PROBE_USER = 0
"""Any user will do: what counts is that an answer comes."""


class _Found(NamedTuple):
    value: bytes | None
    outcome: str
    """How it was come by."""


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
        forget: Callable[[Iterable[int]], None],
    ) -> None:
        """forget: told the users that operators erased, once nothing more is read of them."""
        self.caught_up = threading.Event()
        """Set once the operators' decisions are known and Redis was asked; it may be away."""
        self.obeyed = 0
        self._directory, self._stream = directory, stream
        self._histories, self._metrics = histories, metrics
        self._wait_seconds, self._retry_seconds = redis.wait_ms / 1000, redis.retry_seconds
        self._poll_seconds = min(serving.poll_seconds, redis.retry_seconds)
        waits = self._wait_seconds, self._retry_seconds
        self._clients = [connect(redis, seconds, connect_seconds=seconds) for seconds in waits]
        self._values, self._store = (
            HistoryStore(client, redis.prefix, histories) for client in self._clients
        )
        self._forget = forget
        self._seen = LastSeen(redis.cache_bytes)
        self._breaker = Breaker("Redis", metrics.redis_up)
        self._erased: dict[int, int] = {}
        self._generation = 0
        self._watermark_ms = 0
        self._probed = 0.0
        self._trouble = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="decisions", daemon=True)

    def start(self) -> None:
        """Begin to follow decisions, and to see whether Redis answers."""
        self._thread.start()

    def wake(self) -> None:
        """The writer of the histories looks into the log by itself."""

    def close(self) -> None:
        """Stop, and let go of the connections."""
        self._stopped.set()
        self._thread.join()
        for client in self._clients:
            client.close()

    def read(self, user_keys: Sequence[int]) -> list[Histories]:
        """All that is kept of each user: read together, by the engine's thread when the turn of
        their rankings has come; or what was seen of them last, if no answer comes in time."""
        began = time.perf_counter()
        values = self._read(user_keys)
        self._metrics.history_read_seconds.observe(time.perf_counter() - began)
        return [self._history(*each) for each in zip(user_keys, values, strict=True)]

    def _history(self, user_key: int, found: _Found) -> Histories:
        erased_ms, outcome = self._erased.get(user_key, EVER_MS), found.outcome
        try:
            history = history_of(found.value, self._histories, self._watermark_ms, erased_ms)
        except ValueDamaged:
            outcome, history = "damaged", history_of(None, self._histories)
        self._metrics.history_reads_total.labels(outcome).inc()
        return history

    def _read(self, user_keys: Sequence[int]) -> list[_Found]:
        if self._breaker.open:
            return self._last(user_keys)
        try:
            values = self._values.read(user_keys)
        except RedisSlow as error:
            self._breaker.late(f"no answer within {self._wait_seconds * 1000:g} ms: {error}")
            return self._last(user_keys)
        except RedisAway as error:
            self._breaker.failed(str(error))
            return self._last(user_keys)
        self._breaker.answered()
        for user_key, value in zip(user_keys, values, strict=True):
            self._seen.put(user_key, value)
        return [_Found(value, "missing" if value is None else "hit") for value in values]

    def _last(self, user_keys: Sequence[int]) -> list[_Found]:
        values = map(self._seen.get, user_keys)
        return [_Found(value, "lost" if value is None else "stale") for value in values]

    def _follow(self) -> None:
        self._probe()
        while not self._stopped.is_set():
            decided = self._decide()
            if self._breaker.open and time.monotonic() - self._probed >= self._retry_seconds:
                self._probe()
            self._look()
            if decided:
                self.caught_up.set()
            self._stopped.wait(self._poll_seconds)

    def _probe(self) -> None:
        """Ask as a ranking would; a service that answers too late is as good as away."""
        self._probed = time.monotonic()
        try:
            self._store.read([PROBE_USER])
        except RedisAway as error:
            self._breaker.failed(str(error))
            return
        if time.monotonic() - self._probed <= self._wait_seconds:
            self._breaker.probed()

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
            self._forget(self._erased)
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
