"""The stream on Apache Kafka, for any number of processes on any number of machines."""

import logging
import threading
from collections.abc import Mapping, Sequence

from service.errors import StreamError
from service.streams.kafka.cluster import Cluster
from service.streams.kafka.connecting import options
from service.streams.kafka.fetcher import Fetcher
from service.streams.kafka.producer import Producer, Share
from service.streams.kafka.settings import KafkaSettings
from service.streams.kafka.topics import Topic, Topics
from service.streams.keyed import column, dealt
from service.streams.protocol import Lag, Record, lag_of

_log = logging.getLogger(__name__)

PACE_SECONDS = 0.02
"""Fetching took a third of a core at 100 appends a second without any pace."""


class KafkaStream:
    """A Stream whose topics are Kafka's; docs/streams.md says what it uses and what it promises.

    It connects when it is first used. While brokers are away `read` finds nothing, and goes on
    where it was once they are back; what has to have an answer raises StreamError.
    """

    def __init__(self, settings: KafkaSettings, pace_seconds: float = PACE_SECONDS) -> None:
        """pace_seconds: brokers are not asked more often for records while there are few."""
        made = options(settings)
        self._settings = settings
        self._cluster = Cluster(made)
        self._topics = Topics(self._cluster, settings)
        self._producer = Producer(settings, made)
        # Connections of its own: a fetch that a broker holds back holds back what is asked after.
        self._fetches = Cluster(made)
        self._fetcher = Fetcher(
            self._fetches, self._topics, settings.buffer_bytes, pace_seconds, self._aside
        )
        self._lock = threading.Lock()
        self._started = self._closed = False
        self._progress: dict[tuple[str, int], int] = {}
        self._stamped_by_brokers: dict[str, bool] = {}

    def topic_id(self, topic: str) -> str:
        """As Stream.topic_id."""
        return self._topic(topic, anew=True).id

    def partitions(self, topic: str) -> int:
        """As Stream.partitions."""
        return self._topic(topic, anew=True).partitions

    def append(
        self,
        topic: str,
        partition: int,
        payloads: Sequence[bytes],
        append_ms: int | Sequence[int] | None = None,
        keys: Sequence[bytes] | None = None,
    ) -> int:
        """As Stream.append: acknowledged by all replicas in sync. An empty payload is a tombstone.

        Raises StreamError after `append_timeout_seconds`; some records may then be in the log.
        """
        one = self._partition(topic, partition)
        if not payloads:
            return self.bounds(topic, partition)[1]
        self._check_append(one, append_ms)
        return self._producer.append(one, [_share(partition, payloads, append_ms, keys)])[0]

    def append_keyed(
        self,
        topic: str,
        payloads: Sequence[bytes],
        keys: Sequence[bytes],
        append_ms: int | Sequence[int] | None = None,
    ) -> None:
        """As Stream.append_keyed: all partitions at once."""
        one = self._topic(topic, anew=True)
        self._check_append(one, append_ms)
        shares = dealt(payloads, keys, append_ms, one.partitions)
        if shares:
            self._producer.append(
                one, [_share(p, s.payloads, s.append_ms, s.keys) for p, s in shares.items()]
            )

    def read(self, topic: str, partition: int, offset: int, max_records: int) -> list[Record]:
        """As Stream.read: what lies ready. One reader per partition and stream: to ask for another
        offset than the one behind what was returned last is to begin there anew."""
        one = self._partition(topic, partition)
        one.check()
        return self._fetcher.read(one, partition, offset, max_records)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """As Stream.bounds; records of transactions that are still open lie behind the end."""
        self._topic(topic, anew=True)
        return self._bounds(self._partition(topic, partition), partition)

    def drained(self, topic: str, partition: int, offset: int) -> bool:
        """As Stream.drained."""
        one = self._partition(topic, partition)
        _, end = self._bounds(one, partition)
        return end <= max(offset, self._fetcher.passed(one, partition, offset))

    def first_since(self, topic: str, partition: int, at_ms: int) -> int:
        """As Stream.first_since."""
        one = self._partition(topic, partition)
        found = self._cluster.first_since(one.name, partition, at_ms)
        return self._bounds(one, partition)[1] if found is None else found

    def lag(self, offsets: Mapping[str, Mapping[int, int]]) -> dict[str, Lag]:
        """As Stream.lag; at most a few seconds old. Topics that nobody reads are not in it."""
        bounds = self._fetcher.bounds()
        found: dict[str, Lag] = {}
        for topic, partitions in offsets.items():
            places = {(self._settings.prefix + topic, p): at for p, at in partitions.items()}
            if places.keys() <= bounds.keys():
                found[topic] = lag_of([(*bounds[place], at) for place, at in places.items()])
        return found

    def progress(self, offsets: Mapping[str, Mapping[int, int]]) -> None:
        """As Stream.progress: written as the offsets of `group` within a few seconds."""
        places = {
            (self._settings.prefix + topic, partition): offset
            for topic, partitions in offsets.items()
            for partition, offset in partitions.items()
        }
        with self._lock:
            self._progress = places

    def sync(self) -> None:
        """As Stream.sync. What `append` returned for is on all replicas in sync; Kafka survives
        power loss by them, not by fsync."""

    def close(self) -> None:
        """As Stream.close. Closing twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._started:
            self._fetcher.close()
            self._aside()
        self._fetches.close()
        self._producer.close()
        self._cluster.close()

    def _topic(self, name: str, anew: bool = False) -> Topic:
        """The topic; one that has changed since it was opened only if it may be taken `anew`."""
        if self._closed:
            raise StreamError(f"the stream on {self._settings.servers} is closed; open another")
        topic = self._topics.open(name, anew)
        if self._started:
            return topic
        with self._lock:
            if not self._started and not self._closed:
                self._started = True
                self._fetcher.start()
        return topic

    def _bounds(self, topic: Topic, partition: int) -> tuple[int, int]:
        place = topic.name, partition
        return self._cluster.bounds([place])[place]

    def _partition(self, name: str, partition: int) -> Topic:
        topic = self._topic(name)
        if not 0 <= partition < topic.partitions:
            raise StreamError(
                f"topic {topic.name} has partitions 0 to {topic.partitions - 1}, not {partition}"
            )
        return topic

    def _check_append(self, topic: Topic, append_ms: object) -> None:
        """Raise StreamError if the topic is another one now, or times are given where brokers set
        their own."""
        topic.check()
        if append_ms is None:
            return
        if topic.id not in self._stamped_by_brokers:
            kind = self._cluster.topic_setting(topic.name, "message.timestamp.type")
            self._stamped_by_brokers[topic.id] = kind == "LogAppendTime"
        if self._stamped_by_brokers[topic.id]:
            raise StreamError(
                f"topic {topic.name} keeps the brokers' times (message.timestamp.type = "
                "LogAppendTime), and past events need their own: replay into another topic (set "
                'prefix, and timestamps = "producer", in section [kafka])'
            )

    def _aside(self) -> None:
        """What the fetcher's thread does now and then: write progress that was not written yet."""
        with self._lock:
            offsets, self._progress = self._progress, {}
        if offsets:
            try:
                self._cluster.commit(self._settings.group, offsets)
            except StreamError as error:
                _log.warning("progress is not shown: %s", error)


def _share(
    partition: int,
    payloads: Sequence[bytes],
    append_ms: int | Sequence[int] | None,
    keys: Sequence[bytes] | None,
) -> Share:
    count = len(payloads)
    times = [append_ms] * count if isinstance(append_ms, int) else append_ms
    return Share(
        partition, payloads, column("append times", times, count), column("keys", keys, count)
    )
