"""What `HistoryStore` asks of Redis, kept in a dict: for what can be shown without a Redis."""

import threading
from collections.abc import Sequence

from service.histories.redis.progress import Progress
from service.histories.redis.values import HEADER_BYTES
from service.redis.connection import RedisAway


class KeptStore:
    """The same methods with the same meaning; `tests/stack` tests the real one alike."""

    def __init__(self) -> None:
        self.values: dict[int, bytes] = {}
        self.progresses: dict[str, Progress] = {}
        self.away = False
        self.lock = threading.Lock()

    def read(self, users: Sequence[int]) -> list[bytes | None]:
        self._reach()
        with self.lock:
            return [self.values.get(user) for user in users]

    def swap(
        self, users: Sequence[int], old: Sequence[bytes | None], new: Sequence[bytes]
    ) -> list[bool]:
        self._reach()
        with self.lock:
            return [self._swap(*one) for one in zip(users, old, new, strict=True)]

    def progress(self, topic_id: str) -> Progress | None:
        self._reach()
        return self.progresses.get(topic_id)

    def begin(self, topic_id: str, progress: Progress) -> None:
        self._reach()
        self.progresses[topic_id] = progress

    def advance(self, topic_id: str, progress: Progress) -> bool:
        self._reach()
        known = self.progresses.get(topic_id)
        if known is None or known.epoch != progress.epoch:
            return False
        self.progresses[topic_id] = progress
        return True

    def _swap(self, user: int, old: bytes | None, new: bytes) -> bool:
        if self.values.get(user, b"")[:HEADER_BYTES] != (old or b"")[:HEADER_BYTES]:
            return False
        self.values[user] = new
        if not new:
            del self.values[user]
        return True

    def _reach(self) -> None:
        if self.away:
            raise RedisAway("it is away")
