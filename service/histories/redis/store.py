"""What is asked of Redis: values of users, by the hundred, and the progress beside them.

Keys, behind the prefix: `h:USER` one value (`values.py`), `progress:TOPIC_ID` one hash
(`progress.py`). A script touches one key, and no key depends on another.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

from redis import Redis

from service.histories.redis.progress import EPOCH, Progress
from service.histories.redis.values import HEADER_BYTES
from service.histories.settings import HistorySettings
from service.redis.connection import redis_errors

AT_ONCE = 256
"""Commands that are sent together: more would only hold up other clients."""

SWAP = f"""
if redis.call('GETRANGE', KEYS[1], 0, {HEADER_BYTES - 1}) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1])
elseif ARGV[3] == '0' then redis.call('SET', KEYS[1], ARGV[2])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""
"""Put a value in the place of the one whose header was read (empty: none), or do nothing."""

ADVANCE = f"""
if redis.call('HGET', KEYS[1], '{EPOCH}') ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do
  local known = redis.call('HGET', KEYS[1], ARGV[i])
  if not known or tonumber(known) < tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 1
"""
"""Raise the numbers of the progress, if it is still the one of this epoch."""

T = TypeVar("T")


class HistoryStore:
    """Values and progress of the histories of one topic. Methods raise RedisAway."""

    def __init__(self, client: Redis, prefix: str, settings: HistorySettings) -> None:
        """Redis keeps a value that nobody writes for the histories' time-to-live."""
        self._client, self._prefix = client, prefix
        self._ttl = "0" if settings.ttl_seconds is None else str(max(1, settings.ttl_ms))

    def read(self, users: Sequence[int]) -> list[bytes | None]:
        """The values of users, None where there is none."""
        with redis_errors():
            parts: Any = (self._client.mget(some) for some in _batched(self._keys(users)))
            return list(chain.from_iterable(parts))

    def swap(
        self, users: Sequence[int], old: Sequence[bytes | None], new: Sequence[bytes]
    ) -> list[bool]:
        """Put new values (empty: none) in the place of those that were read before.

        Each user's value is replaced at once or, if someone else changed it in between, not at
        all; returns who was replaced.
        """

        def ask(pipeline: Any, one: tuple[str, bytes | None, bytes]) -> None:
            key, before, after = one
            pipeline.eval(SWAP, 1, key, (before or b"")[:HEADER_BYTES], after, self._ttl)

        asked = list(zip(self._keys(users), old, new, strict=True))
        return [bool(done) for done in self._pipelined(asked, ask)]

    def progress(self, topic_id: str) -> Progress | None:
        """How far the values go; None in an empty Redis."""
        with redis_errors():
            found: Any = self._client.hgetall(self._progress_key(topic_id))
            return Progress.of(found)

    def begin(self, topic_id: str, progress: Progress) -> None:
        """Say anew how far the values go, whatever was said before."""
        fields: dict[Any, Any] = {**progress.fields(), EPOCH: progress.epoch}
        with redis_errors():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.delete(self._progress_key(topic_id))
            pipeline.hset(self._progress_key(topic_id), mapping=fields)
            pipeline.execute()

    def advance(self, topic_id: str, progress: Progress) -> bool:
        """Say that the values go further; False if their epoch is over."""
        pairs = [str(part) for pair in progress.fields().items() for part in pair]
        with redis_errors():
            key = self._progress_key(topic_id)
            done: Any = self._client.eval(ADVANCE, 1, key, progress.epoch, *pairs)
            return bool(done)

    def _pipelined(self, asked: Sequence[T], ask: Callable[[Any, T], None]) -> list[Any]:
        answers: list[Any] = []
        for some in _batched(asked):
            with redis_errors():
                pipeline = self._client.pipeline(transaction=False)
                for one in some:
                    ask(pipeline, one)
                answers.extend(pipeline.execute())
        return answers

    def _keys(self, users: Sequence[int]) -> list[str]:
        return [f"{self._prefix}h:{user}" for user in users]

    def _progress_key(self, topic_id: str) -> str:
        return f"{self._prefix}progress:{topic_id}"


def _batched(everything: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(everything), AT_ONCE):
        yield everything[first : first + AT_ONCE]
