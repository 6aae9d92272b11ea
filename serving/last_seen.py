"""The histories that were seen last, for when those of now are out of reach."""

import threading
from collections import OrderedDict
from collections.abc import Iterable

ENTRY_BYTES = 250
"""What an entry takes beside its value: object headers, the key, its place in the order."""


class LastSeen:
    """Values of users within a bound in bytes; those longest unseen leave first. Thread-safe."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._values: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.nbytes = 0

    def put(self, user_key: int, value: bytes | None) -> None:
        """Remember a user's value, or that there is none."""
        with self._lock:
            self._remove(user_key)
            if value is None:
                return
            self._values[user_key] = value
            self.nbytes += len(value) + ENTRY_BYTES
            while self.nbytes > self._limit:
                self._remove(next(iter(self._values)))

    def get(self, user_key: int) -> bytes | None:
        """The value as it was seen last; None if it was not, or not lately."""
        with self._lock:
            if user_key in self._values:
                self._values.move_to_end(user_key)
            return self._values.get(user_key)

    def drop(self, user_keys: Iterable[int]) -> None:
        """Forget users."""
        with self._lock:
            for user_key in user_keys:
                self._remove(user_key)

    def _remove(self, user_key: int) -> None:
        if (value := self._values.pop(user_key, None)) is not None:
            self.nbytes -= len(value) + ENTRY_BYTES
