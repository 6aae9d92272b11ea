"""A thread that reads users' values from Redis: what is asked for at the same time, together."""

import logging
import queue
import threading
import time
from concurrent.futures import Future

from service.errors import FreshetError
from service.histories.redis.store import AT_ONCE, HistoryStore
from serving.breaker import Breaker
from serving.last_seen import LastSeen

log = logging.getLogger("serving.value_reader")

PROBE_USER = 0
"""Any user will do: what counts is that an answer comes."""

Asked = tuple[int, "Future[bytes | None]"]


class ValueReader:
    """Reads, remembers what it read, and tries again while the breaker is open."""

    def __init__(
        self,
        store: HistoryStore,
        seen: LastSeen,
        breaker: Breaker,
        wait_seconds: float,
        retry_seconds: float,
    ) -> None:
        """wait_seconds: within which a probe must be answered; retry_seconds: between probes."""
        self.tried = threading.Event()
        """Set once Redis was asked: the connection is there, or Redis is away."""
        self._store, self._seen, self._breaker = store, seen, breaker
        self._wait_seconds, self._retry_seconds = wait_seconds, retry_seconds
        self._queue: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="values", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """Stop; who still waits is told nothing."""
        self._queue.put(None)
        self._thread.join()

    def ask(self, user_key: int) -> "Future[bytes | None]":
        """The user's value, soon; None where there is none. It fails with RedisAway."""
        future: Future[bytes | None] = Future()
        self._queue.put((user_key, future))
        return future

    def _run(self) -> None:
        self._probe()
        self.tried.set()
        going = True
        while going:
            try:
                first = self._queue.get(timeout=self._retry_seconds)
            except queue.Empty:
                if self._breaker.open:
                    self._probe()
                continue
            batch = [] if first is None else [first]
            going = first is not None
            while going and len(batch) < AT_ONCE and not self._queue.empty():
                following = self._queue.get()
                going = following is not None
                batch += [] if following is None else [following]
            self._answer(batch)

    def _answer(self, batch: list[Asked]) -> None:
        wanted = [one for one in batch if one[1].set_running_or_notify_cancel()]
        if not wanted:
            return
        users = [user_key for user_key, _ in wanted]
        try:
            values = self._store.read(users)
        except FreshetError as error:
            self._breaker.failed(str(error))
            for _, future in wanted:
                future.set_exception(error)
            return
        for (user_key, future), value in zip(wanted, values, strict=True):
            self._seen.put(user_key, value)
            future.set_result(value)

    def _probe(self) -> None:
        """Ask as a ranking would; a service that answers too late is as good as away."""
        began = time.monotonic()
        try:
            self._store.read([PROBE_USER])
        except FreshetError as error:
            self._breaker.failed(str(error))
            return
        if time.monotonic() - began <= self._wait_seconds:
            self._breaker.probed()
