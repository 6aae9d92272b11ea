"""Reads ahead: one thread that keeps a buffer per partition filled, so that no reader waits.

The reader owns its partitions by what it asks for: there is no consumer group, so nothing is ever
rebalanced under a trainer's state. Fetches name topics by id, so that records of a topic that was
deleted and made again cannot be taken for those of the old one.
"""

import logging
import queue
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from kafka import errors
from kafka.protocol.consumer import FetchRequest

from service.errors import OffsetError, StreamError
from service.streams.kafka.buffers import Buffer
from service.streams.kafka.cluster import READ_COMMITTED, Cluster
from service.streams.kafka.records import decoded
from service.streams.kafka.topics import Topic, Topics
from service.streams.protocol import Record

_log = logging.getLogger(__name__)

Place = tuple[str, int]
"""Name of a topic with its prefix, and number of a partition."""

FETCH_WAIT_MS = 100
"""How long a broker may hold a fetch back while nothing is there; a fetch holds up none beside it
for longer than this."""
FETCH_BYTES = 2**20
LEAST_FETCH_BYTES = 2**17
LITTLE_BYTES = 2**15
"""In the answer to a fetch: less says that its readers are at the end of the log."""
LOOK_SECONDS = 2.0
"""How often the topics, and the bounds of partitions, are asked for."""
PAUSE_SECONDS = 0.2
"""How long a broker is left alone after a failure."""
WAIT_SECONDS = 1.0

_PASSING = (errors.RetriableError, errors.UnknownError)
"""What a broker says while leaders move, or before it knows everything after a start."""


class _Wanted(NamedTuple):
    """One partition of a fetch, as it was when it was sent."""

    topic: Topic
    partition: int
    offset: int
    epoch: int
    seeks: int

    @property
    def place(self) -> Place:
        return self.topic.name, self.partition


class Fetcher:
    """Buffers filled by a thread that starts with the first read. `aside` is called every
    LOOK_SECONDS in that thread, for whatever else talks to brokers now and then."""

    def __init__(
        self, cluster: Cluster, topics: Topics, buffer_bytes: int, pace_seconds: float,
        aside: Callable[[], None],
    ) -> None:  # fmt: skip
        """pace_seconds: a broker that has little is not asked more often. Where records come one
        by one each would cost a fetch, here and there."""
        self._cluster, self._topics = cluster, topics
        self._buffer_bytes, self._pace_seconds, self._aside = buffer_bytes, pace_seconds, aside
        self._lock = threading.Lock()
        self._buffers: dict[Place, tuple[Topic, Buffer]] = {}
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._busy: set[int] = set()
        self._rests: dict[int, float] = {}
        self._asked: dict[int, float] = {}
        self._look_at = time.monotonic() + LOOK_SECONDS
        self._away_since: float | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="kafka-fetcher", daemon=True)

    def start(self) -> None:
        """Begin to watch the topics; once only."""
        self._thread.start()

    def read(self, topic: Topic, partition: int, offset: int, limit: int) -> list[Record]:
        """At most `limit` records at or after `offset` that lie ready."""
        with self._lock:
            buffer = self._buffer(topic, partition, offset)
            if buffer.failure is not None:
                raise buffer.failure_raised()
            records = buffer.take(limit)
            hungry = bool(records) and self._room(buffer) > 0
        if hungry:
            self._wake()
        return records

    def passed(self, topic: Topic, partition: int, offset: int) -> int:
        """Up to which offset the log is known to hold nothing for a reader at `offset`."""
        with self._lock:
            buffer = self._buffer(topic, partition, offset)
            return buffer.fetch_offset if buffer.empty else buffer.next_offset

    def bounds(self) -> dict[Place, tuple[int, int]]:
        """First and next offset of the partitions that are read, as last told."""
        with self._lock:
            known = {place: buffer.bounds for place, (_, buffer) in self._buffers.items()}
        return {place: bounds for place, bounds in known.items() if bounds is not None}

    def close(self) -> None:
        """Stop; what was read ahead is dropped."""
        self._stopped = True
        self._wake()
        if self._thread.ident is not None:
            self._thread.join()

    def _buffer(self, topic: Topic, partition: int, offset: int) -> Buffer:
        """The buffer of a partition, at this offset. The caller holds the lock."""
        place = (topic.name, partition)
        known, buffer = self._buffers.get(place, (None, None))
        if buffer is None or known is not topic:
            buffer = Buffer(offset)
            self._buffers[place] = topic, buffer
            self._wake()
        elif buffer.next_offset != offset:
            buffer.seek(offset)
            self._wake()
        return buffer

    def _room(self, buffer: Buffer) -> int:
        """Bytes that may be fetched for a partition now."""
        share = self._buffer_bytes // max(1, len(self._buffers))
        room = share - buffer.bytes
        return min(FETCH_BYTES, max(LEAST_FETCH_BYTES, room // 2)) if room > 0 else 0

    def _wake(self) -> None:
        self._events.put(_nothing)

    # What follows runs in the thread.

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._step()
            except StreamError as error:
                self._complain(error)
                time.sleep(PAUSE_SECONDS)
            except Exception:
                # A thread that ended here would leave every reader waiting in silence.
                _log.exception("fetching from Kafka failed and goes on")
                time.sleep(WAIT_SECONDS)

    def _step(self) -> None:
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._look()
        for node, wanted in self._hungry(now).items():
            self._fetch(node, wanted)
        event = self._next_event(min([self._look_at, *self._rests.values()]) - now)
        while event is not None:
            event()
            event = self._next_event(0)

    def _next_event(self, wait_seconds: float) -> Callable[[], None] | None:
        try:
            if wait_seconds <= 0:
                return self._events.get_nowait()
            return self._events.get(timeout=wait_seconds)
        except queue.Empty:
            return None

    def _look(self) -> None:
        self._topics.refresh()
        with self._lock:
            places = [place for place, (topic, _) in self._buffers.items() if not topic.changed]
        for place, bounds in self._cluster.bounds(places).items():
            with self._lock:
                if place in self._buffers:
                    self._buffers[place][1].bounds = bounds
        self._aside()

    def _hungry(self, now: float) -> Mapping[int, list[tuple[_Wanted, int]]]:
        """What to fetch from which broker: partitions with room, leaders that are idle."""
        self._rests = {node: until for node, until in self._rests.items() if until > now}
        hungry: dict[int, list[tuple[_Wanted, int]]] = defaultdict(list)
        with self._lock:
            for (_, partition), (topic, buffer) in self._buffers.items():
                node, room = topic.leaders[partition], self._room(buffer)
                if topic.changed or buffer.failure is not None or not room:
                    continue
                if node < 0:
                    self._look_at = min(self._look_at, now + PAUSE_SECONDS)
                elif node not in self._busy and node not in self._rests:
                    wanted = _Wanted(
                        topic, partition, buffer.fetch_offset, buffer.epoch, buffer.seeks
                    )
                    hungry[node].append((wanted, room))
        return hungry

    def _fetch(self, node: int, wanted: list[tuple[_Wanted, int]]) -> None:
        self._busy.add(node)
        self._asked[node] = time.monotonic()
        asked = {(uuid.UUID(w.topic.id), w.partition): w for w, _ in wanted}

        def done(answer: Any) -> None:
            self._events.put(partial(self._answered, node, asked, answer))

        try:
            self._cluster.send(node, _request(wanted), done)
        except StreamError:
            self._busy.discard(node)
            raise

    def _answered(
        self, node: int, asked: Mapping[tuple[uuid.UUID, int], _Wanted], answer: Any
    ) -> None:
        self._busy.discard(node)
        error = answer if isinstance(answer, Exception) else _error_of(answer.error_code)
        if error is not None:
            self._rest(node)
            self._cluster.look_again()
            self._complain(error)
            return
        if (
            sum(len(p.records or b"") for t in answer.responses for p in t.partitions)
            < LITTLE_BYTES
        ):
            self._rests[node] = self._asked[node] + self._pace_seconds
        for topic in answer.responses:
            for part in topic.partitions:
                wanted = asked.get((topic.topic_id, part.partition_index))
                if wanted is not None:
                    self._take(node, wanted, part)

    def _take(self, node: int, wanted: _Wanted, part: Any) -> None:
        """Put one partition's share of a response into its buffer, or see why there is none."""
        error = _error_of(part.error_code)
        if isinstance(error, _PASSING):
            self._rest(node)
            self._complain(error)
            return
        failure: StreamError | None = None
        try:
            if error is not None:
                raise _failure(wanted, error)
            _check_epoch(wanted, part)
            fetched = decoded(
                bytes(part.records or b""), wanted.offset, part.aborted_transactions or ()
            )
        except StreamError as raised:
            failure = raised
        with self._lock:
            topic, buffer = self._buffers[wanted.place]
            if topic is not wanted.topic or buffer.seeks != wanted.seeks:
                return  # the reader has gone elsewhere
            if failure is not None:
                buffer.failure = failure
            else:
                buffer.put(*fetched)
                buffer.bounds = part.log_start_offset, part.last_stable_offset
        self._back()

    def _rest(self, node: int) -> None:
        """Leave a broker alone for a moment, and look who leads now."""
        self._rests[node] = time.monotonic() + PAUSE_SECONDS
        self._look_at = min(self._look_at, time.monotonic() + PAUSE_SECONDS)

    def _complain(self, error: Exception) -> None:
        """Say once that nothing can be read."""
        if self._away_since is None:
            self._away_since = time.monotonic()
            _log.error("Kafka cannot be read, and is tried until it can: %s", error)

    def _back(self) -> None:
        if self._away_since is not None:
            _log.warning("Kafka is read again, after %.1f s", time.monotonic() - self._away_since)
            self._away_since = None


def _nothing() -> None:
    """An event that only wakes."""


def _request(wanted: list[tuple[_Wanted, int]]) -> FetchRequest:
    topics: dict[str, list[Any]] = defaultdict(list)
    for one, room in wanted:
        topics[one.topic.id].append(
            FetchRequest.FetchTopic.FetchPartition(
                partition=one.partition,
                fetch_offset=one.offset,
                last_fetched_epoch=one.epoch,
                partition_max_bytes=room,
            )
        )
    return FetchRequest(
        max_wait_ms=FETCH_WAIT_MS,
        min_bytes=1,
        max_bytes=sum(room for _, room in wanted),
        isolation_level=READ_COMMITTED,
        topics=[
            FetchRequest.FetchTopic(topic_id=uuid.UUID(topic), partitions=partitions)
            for topic, partitions in topics.items()
        ],
        min_version=13,
        max_version=13,
    )


def _error_of(code: int) -> Exception | None:
    kind: type[Exception] = errors.for_code(code)
    return None if kind is errors.NoError else kind()


def _check_epoch(wanted: _Wanted, part: Any) -> None:
    """Raise OffsetError if the broker's log is not the one that was read up to here."""
    diverging = part.diverging_epoch
    if diverging is not None and diverging.end_offset >= 0:
        raise OffsetError(
            f"{wanted.topic.name}/{wanted.partition} was cut back to offset "
            f"{diverging.end_offset} after records up to {wanted.offset} were read: an unclean "
            "leader election lost them; start the trainer once with --from earliest or --from TIME"
        )


def _failure(wanted: _Wanted, error: Exception) -> StreamError:
    where = f"{wanted.topic.name}/{wanted.partition}"
    if isinstance(error, errors.OffsetOutOfRangeError):
        return OffsetError(
            f"offset {wanted.offset} of {where} is not in the topic: it is older than the topic's "
            "retention, or beyond its end; start the trainer once with --from earliest or "
            "--from TIME"
        )
    if isinstance(error, errors.TopicAuthorizationFailedError):
        return StreamError(
            f"the user of this process may not read {where}; give it the right to read the topic"
        )
    return StreamError(f"{where} cannot be read at offset {wanted.offset}: {error!r}")
