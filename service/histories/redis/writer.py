"""The role that keeps the histories in Redis: it follows the log, and needs no trainer.

Whatever fails, it begins again from what Redis says of its own contents, so that nothing is lost
and nothing counts twice: a record that a value contains already changes nothing.
"""

import logging
import threading
import time

import numpy as np

from service.blocks import Block
from service.errors import FreshetError, StreamError, VersionError
from service.histories.erased import Erased
from service.histories.redis.beginning import Beginning, progress_of
from service.histories.redis.progress import Progress
from service.histories.redis.reducer import Changed, Placed, Reducer, source_of
from service.histories.redis.rules import Rules
from service.histories.redis.store import HistoryStore
from service.histories.rings import Longs
from service.histories.starting import TOPIC
from service.intake import Intake
from service.metrics import HistoryMetrics
from service.redis.connection import RedisAway, RedisDenied
from service.streams import Stream
from service.versions import VersionDirectory

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often operators' decisions are read, and an idle Redis is asked whether it still holds what
it held."""
USERS_AT_ONCE = 1024


class ContentsLost(FreshetError):
    """Redis holds less than it did: it was emptied, or came back from an older copy."""


class HistoryWriter:
    """Follows topic `actions` into Redis until it is stopped. One thread."""

    def __init__(
        self,
        stream: Stream,
        directory: VersionDirectory,
        store: HistoryStore,
        rules: Rules,
        metrics: HistoryMetrics,
    ) -> None:
        self._stream, self._directory, self._store = stream, directory, store
        self._rules, self._metrics = rules, metrics
        self._beginning = Beginning(stream, directory, store, rules, metrics)
        self._reducer = Reducer(rules.histories)
        self._erased = Erased.of({})
        self._obeyed = 0
        self._looked = 0.0
        self._worked = False
        self._trouble = ""
        """What failed last: said once, not at every attempt."""

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set; the block that is being written is finished.

        Raises RedisDenied if Redis refuses who asks from the beginning.
        """
        while not stop.is_set():
            try:
                self._follow(stop)
            except (RedisAway, ContentsLost, StreamError, VersionError, OSError) as error:
                if isinstance(error, RedisDenied) and not self._worked:
                    raise
                self._complain(error, "histories stand still until this is over")
                stop.wait(self._rules.redis.retry_seconds)

    def _follow(self, stop: threading.Event) -> None:
        """1. erase whom operators erased; 2. go on where Redis says that its values end, or seed an
        empty one; 3. block by block: read its users' values, make the new ones, swap them in, and
        only then say how far they go."""
        self._erased, self._obeyed = Erased.of({}), 0
        self._obey()
        topic_id = self._stream.topic_id(TOPIC)
        intake, progress = self._beginning.of(topic_id, self._erased, self._obeyed)
        self._recovered()
        source_P = self._sources(topic_id)
        while not stop.is_set():
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                progress = self._look(topic_id, intake, progress)
            block = intake.block(self._rules.redis.write_records, wait_seconds=0.0)
            if block is None:
                stop.wait(self._rules.redis.poll_seconds)
                continue
            began = time.monotonic()
            self._write(block, source_P, topic_id, progress)
            progress = self._advance(topic_id, intake, progress)
            self._metrics.history_records_total.inc(block.records)
            self._metrics.history_write_seconds.observe(time.monotonic() - began)

    def _sources(self, topic_id: str) -> Longs:
        partitions = range(self._stream.partitions(TOPIC))
        return np.array([source_of(topic_id, partition) for partition in partitions], np.int64)

    def _write(self, block: Block, source_P: Longs, topic_id: str, progress: Progress) -> None:
        """Put a block into its users' values. Users whose value someone else changed meanwhile are
        read again: another writer may be at work, and both end with the same values.

        First the log is synced: a power loss must not take back what a position says is contained.
        """
        self._stream.sync()
        kept = block.without(self._erased)
        placed, read = Placed.of(kept, source_P), len(kept.events)
        known = duplicates = 0
        while len(placed.events):
            users = placed.users
            old = self._store.read(users.tolist())
            self._check(topic_id, progress)
            changed = self._reducer.append(users, old, placed)
            again_T = np.isin(placed.events.user_T, self._swap(users, old, changed))
            known += int(changed.known_T[~again_T].sum())
            duplicates += int(changed.duplicate_T[~again_T].sum())
            placed = placed.where(again_T)
        self._count(read, known, duplicates, block.erased + kept.erased)
        waited_seconds = time.time() - block.first_append_ms / 1000
        self._metrics.action_to_history_seconds.observe(max(0.0, waited_seconds))

    def _swap(self, users: Longs, old: list[bytes | None], changed: Changed) -> Longs:
        """Write the values that changed; whose value was no longer the one that was read."""
        if changed.damaged:
            log.error("%d damaged values in Redis begin anew", changed.damaged)
            self._metrics.history_damaged_total.inc(changed.damaged)
        mine = users[changed.changed_M]
        before = [value for value, its in zip(old, changed.changed_M, strict=True) if its]
        done = np.array(self._store.swap(mine.tolist(), before, changed.values), np.bool_)
        lost: Longs = mine[~done] if len(mine) else mine
        self._metrics.history_conflicts_total.inc(len(lost))
        return lost

    def _count(self, read: int, known: int, duplicates: int, erased: int) -> None:
        counted = {"known": known, "duplicate": duplicates, "erased": erased}
        counted["kept"] = read - known - duplicates
        for outcome, events in counted.items():
            self._metrics.history_events_total.labels(outcome).inc(events)

    def _check(self, topic_id: str, progress: Progress) -> None:
        """Asked after values were read, and before they are written: they are not those of a Redis
        that lost some. Raises ContentsLost."""
        found = self._store.progress(topic_id)
        if found is None or found.behind(progress):
            raise ContentsLost("Redis holds less than it did; its histories are made anew")

    def _advance(self, topic_id: str, intake: Intake, progress: Progress) -> Progress:
        progress = progress_of(intake, progress.epoch, self._obeyed)
        if not self._store.advance(topic_id, progress):
            raise ContentsLost("Redis was emptied; its histories are made anew")
        self._metrics.watermark_seconds.set(progress.watermark_ms / 1000)
        return progress

    def _look(self, topic_id: str, intake: Intake, progress: Progress) -> Progress:
        """What is looked at every second, whether or not there are records."""
        self._check(topic_id, progress)
        try:
            self._obey()
        except (VersionError, OSError) as error:
            self._complain(error, "the operators' decisions cannot be read")
        else:
            self._recovered()
        ends = (self._stream.bounds(TOPIC, p)[1] - o for p, o in intake.offsets[TOPIC].items())
        self._metrics.history_lag_records.set(sum(ends))
        return self._advance(topic_id, intake, progress)

    def _obey(self) -> None:
        """Erase in Redis whom decisions erased since the last look."""
        self._looked = time.monotonic()
        decisions = self._directory.decisions()
        if decisions.generation == self._obeyed:
            return
        erased = Erased.of(decisions.erased)
        new = erased.since(self._erased)
        for first in range(0, len(new), USERS_AT_ONCE):
            some = slice(first, first + USERS_AT_ONCE)
            self._erase(Erased(new.user_M[some], new.before_ms_M[some]))
        self._erased, self._obeyed = erased, decisions.generation

    def _erase(self, erased: Erased) -> None:
        while len(erased):
            old = self._store.read(erased.user_M.tolist())
            changed = self._reducer.erase(erased.user_M, old, erased)
            again_M = np.isin(erased.user_M, self._swap(erased.user_M, old, changed))
            erased = Erased(erased.user_M[again_M], erased.before_ms_M[again_M])

    def _complain(self, error: Exception, said: str) -> None:
        what = _kind(error)
        self._metrics.history_failures_total.labels(what).inc()
        if what == "redis":
            self._metrics.redis_up.set(0)
        if self._trouble != what:
            log.error("%s: %s", said, error)
        self._trouble = what

    def _recovered(self) -> None:
        self._worked = True
        self._metrics.redis_up.set(1)
        if self._trouble:
            log.info("histories are written again")
        self._trouble = ""


def _kind(error: Exception) -> str:
    if isinstance(error, RedisAway):
        return "redis"
    if isinstance(error, ContentsLost):
        return "contents"
    return "stream" if isinstance(error, StreamError) else "versions"
