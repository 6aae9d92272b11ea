"""Which topics are meant: made where there are none, and watched, so that none is mistaken."""

import threading
from dataclasses import dataclass

from service.errors import OffsetError
from service.streams.kafka.cluster import Cluster, Found
from service.streams.kafka.settings import KafkaSettings

ITEMS, REJECTED = "items", "rejected"


@dataclass
class Topic:
    """A topic as it was when this process began to use it, and why it is no longer that one."""

    name: str
    """With the prefix."""
    id: str
    partitions: int
    leaders: tuple[int, ...]
    """Node that leads each partition; -1: none at present."""
    changed: str | None = None

    def check(self) -> None:
        """Raise OffsetError if the topic is no longer the one that was opened."""
        if self.changed is not None:
            raise OffsetError(self.changed)


class Topics:
    """The topics in use. Methods may be called from several threads."""

    def __init__(self, cluster: Cluster, settings: KafkaSettings) -> None:
        self._cluster, self._settings = cluster, settings
        self._lock = threading.Lock()
        self._open: dict[str, Topic] = {}

    def open(self, name: str, anew: bool = False) -> Topic:
        """The topic, made if there is none. `anew`: one that has changed is taken as it is now."""
        topic = self._open.get(name)
        if topic is not None and not (anew and topic.changed):
            return topic
        with self._lock:
            topic = self._open.get(name)
            if topic is None or (anew and topic.changed):
                topic = self._open[name] = self._found_or_made(name)
        return topic

    def opened(self) -> list[Topic]:
        """The topics in use."""
        with self._lock:
            return list(self._open.values())

    def refresh(self) -> None:
        """Learn who leads, and whether a topic was deleted and made again or has grown. One that
        is not there may come back: its brokers may just have started."""
        topics = [topic for topic in self.opened() if topic.changed is None]
        found = self._cluster.describe(topic.name for topic in topics) if topics else {}
        for topic in topics:
            if topic.name in found:
                self._compare(topic, found[topic.name])

    def _compare(self, topic: Topic, now: Found) -> None:
        if now.id != topic.id:
            topic.changed = (
                f"topic {topic.name} was deleted and made again while it was read (it was "
                f"{topic.id}, it is {now.id}); restart what reads it, and see docs/streams.md"
            )
        elif len(now.leaders) != topic.partitions:
            topic.changed = (
                f"topic {topic.name} had {topic.partitions} partitions and now has "
                f"{len(now.leaders)}: users have moved between partitions; see docs/streams.md"
            )
        else:
            topic.leaders = now.leaders

    def _found_or_made(self, name: str) -> Topic:
        full = self._settings.prefix + name
        found = self._cluster.describe([full]).get(full)
        if found is None:
            self._make(name, full)
            found = self._cluster.describe([full])[full]
        return Topic(full, found.id, len(found.leaders), found.leaders)

    def _make(self, name: str, full: str) -> None:
        settings = self._settings
        config = {
            "message.timestamp.type": (
                "LogAppendTime" if settings.timestamps == "broker" else "CreateTime"
            ),
        }
        if name == ITEMS:
            config["cleanup.policy"] = "compact"
        else:
            config["retention.ms"] = str(settings.retention_ms)
        if settings.min_insync_replicas is not None:
            config["min.insync.replicas"] = str(settings.min_insync_replicas)
        partitions = 1 if name == REJECTED else settings.partitions
        self._cluster.create(full, partitions, settings.replication_factor or -1, config)
