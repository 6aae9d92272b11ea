"""The embedded stream: a durable log in a directory, for any number of processes on one machine."""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from service.errors import StreamError
from service.remedies import remedied
from service.settings import Section
from service.streams.frames import bodies
from service.streams.keyed import dealt
from service.streams.partition import Partition
from service.streams.protocol import Lag, Record, lag_of
from service.streams.syncer import Syncer
from service.streams.topic import Topic


class LocalStreamSettings(Section):
    """How topics are made and how soon they are on disk.

    `partitions` and `segment_bytes` hold for topics made from now on; a topic keeps its own.
    """

    partitions: int = Field(default=1, ge=1, le=4096)
    segment_bytes: int = Field(default=256 * 2**20, ge=1)
    sync_ms: int = Field(default=50, ge=0, le=60_000)


class LocalStream:
    """A Stream in the directory `root`; docs/streams.md describes its files.

    Durability has two bounds, and they differ:

    - *A killed process* (kill -9, at any instant): nothing that `append` returned for is lost and
      no record is torn. An append that was under way is there whole or not at all.
    - *Power loss*, or a crash of the kernel: the last `sync_ms` plus the time of one fsync, for
      every process that is alive at that time. What a process appended within that time before
      it was itself killed waits for the next append to the partition, the next `sync`, or the
      kernel's own write-back (about 30 s). After `sync` returned, nothing is lost.

    Topics are made when first named. Open a stream after a fork, not before it.
    """

    def __init__(self, root: Path, settings: LocalStreamSettings | None = None) -> None:
        self.root = root
        self.settings = settings or LocalStreamSettings()
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._topics: dict[str, Topic] = {}
        self._syncer = Syncer(self._sync, self.settings.sync_ms / 1000)
        self._closed = False

    def topic_id(self, topic: str) -> str:
        """As Stream.topic_id."""
        return self._topic(topic).file.id

    def partitions(self, topic: str) -> int:
        """As Stream.partitions."""
        return self._topic(topic).file.partitions

    def append(
        self,
        topic: str,
        partition: int,
        payloads: Sequence[bytes],
        append_ms: int | Sequence[int] | None = None,
        keys: Sequence[bytes] | None = None,
    ) -> int:
        """As Stream.append. All payloads of a call are kept, or none of them; keys are not kept."""
        log = self._partition(topic, partition)
        self._syncer.check()
        if not payloads:
            return log.bounds()[1]
        try:
            offset = log.append(bodies(payloads, _times(append_ms, len(payloads))))
        except OSError as error:
            raise StreamError(
                f"append to {self.root / topic} failed: {remedied(error) or error}; none of its "
                f"{len(payloads)} records was kept"
            ) from error
        self._syncer.notice()
        return offset

    def append_keyed(
        self,
        topic: str,
        payloads: Sequence[bytes],
        keys: Sequence[bytes],
        append_ms: int | Sequence[int] | None = None,
    ) -> None:
        """As Stream.append_keyed."""
        shares = dealt(payloads, keys, append_ms, self.partitions(topic))
        for partition, share in shares.items():
            self.append(topic, partition, share.payloads, share.append_ms, share.keys)

    def read(self, topic: str, partition: int, offset: int, max_records: int) -> list[Record]:
        """As Stream.read. The CRC of every frame is checked."""
        return self._partition(topic, partition).read(offset, max_records)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """As Stream.bounds."""
        return self._partition(topic, partition).bounds()

    def drained(self, topic: str, partition: int, offset: int) -> bool:
        """As Stream.drained."""
        return offset >= self.bounds(topic, partition)[1]

    def first_since(self, topic: str, partition: int, at_ms: int) -> int:
        """As Stream.first_since; append times ascend."""
        low, end = self.bounds(topic, partition)
        while low < end:
            middle = (low + end) // 2
            if self.read(topic, partition, middle, 1)[0].append_ms < at_ms:
                low = middle + 1
            else:
                end = middle
        return low

    def lag(self, offsets: Mapping[str, Mapping[int, int]]) -> dict[str, Lag]:
        """As Stream.lag."""
        return {
            topic: lag_of((*self.bounds(topic, p), at) for p, at in partitions.items())
            for topic, partitions in offsets.items()
        }

    def progress(self, offsets: Mapping[str, Mapping[int, int]]) -> None:
        """As Stream.progress. Nobody watches: the manifest has the same offsets."""

    def sync(self) -> None:
        """As Stream.sync, and for what other processes appended to the partitions in use here."""
        self._syncer.flush()

    def close(self) -> None:
        """As Stream.close. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._syncer.close()
        try:
            self._syncer.flush()
        finally:
            for partition in self._opened():
                partition.close()

    def _topic(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None or self._closed or os.getpid() != self._process:
            topic = self._open_topic(name)
        return topic

    def _open_topic(self, name: str) -> Topic:
        if self._closed:
            raise StreamError(f"stream {self.root} is closed; open another")
        if os.getpid() != self._process:
            raise StreamError(
                f"stream {self.root} was opened before a fork; open it after the fork"
            )
        with self._lock:
            if name not in self._topics:
                settings = self.settings
                with _opening(self.root / name):
                    self._topics[name] = Topic(
                        self.root, name, settings.partitions, settings.segment_bytes
                    )
            return self._topics[name]

    def _partition(self, topic: str, number: int) -> Partition:
        opened = self._topic(topic)
        with _opening(self.root / topic):
            return opened.partition(number)

    def _opened(self) -> list[Partition]:
        with self._lock:
            topics = list(self._topics.values())
        return [partition for topic in topics for partition in topic.opened()]

    def _sync(self) -> None:
        for partition in self._opened():
            partition.sync()


@contextmanager
def _opening(topic: Path) -> Iterator[None]:
    """What the disk refuses is an error of the stream: who follows the log asks again."""
    try:
        yield
    except OSError as error:
        raise StreamError(
            f"topic {topic} cannot be opened or made: {remedied(error) or error}"
        ) from error


def _times(append_ms: int | Sequence[int] | None, count: int) -> int | list[int]:
    if append_ms is None:
        return time.time_ns() // 1_000_000
    if isinstance(append_ms, int):
        return append_ms
    if len(append_ms) != count:
        raise StreamError(f"{len(append_ms)} append times were given for {count} payloads")
    return list(append_ms)
