"""What brokers are asked: topics, bounds, fetches, group offsets. Every error is a StreamError."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import KafkaError, NodeNotReadyError, TopicAlreadyExistsError
from kafka.protocol.consumer import IsolationLevel
from kafka.structs import OffsetAndMetadata, TopicPartition

from service.streams.kafka.connecting import Connection, explained

READ_COMMITTED = IsolationLevel.READ_COMMITTED

AGAIN_SECONDS, PAUSE_SECONDS = 2.0, 0.05
"""How long what is asked waits for a connection to a broker, and between two looks for one."""

T = TypeVar("T")


class Found(NamedTuple):
    """A topic as brokers describe it. `leaders`: node of each partition, -1 where there is none."""

    id: str
    leaders: tuple[int, ...]


class Cluster:
    """A connection to the brokers, made when it is first needed, and again after it was lost.

    Methods may be called from several threads; those that ask wait for the answer.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._connection: Connection[KafkaAdminClient] = Connection(KafkaAdminClient, options)

    def describe(self, names: Iterable[str]) -> dict[str, Found]:
        """The topics there are of these names."""
        wanted = list(names)
        found = self._ask(
            f"asking for the topics {', '.join(wanted)}", lambda c: c.describe_topics(wanted)
        )
        return {topic["name"]: _found(topic) for topic in found if topic["error_code"] == 0}

    def create(self, name: str, partitions: int, replication: int, config: dict[str, str]) -> None:
        """Make a topic and wait until it can be used; nothing happens where there is one."""
        what = {
            "num_partitions": partitions,
            "replication_factor": replication,
            "configs": config,
        }

        def make(client: KafkaAdminClient) -> None:
            with suppress(TopicAlreadyExistsError):  # another process was first
                client.create_topics({name: what})
            client.wait_for_topics([name])

        self._ask(f"making topic {name}", make)

    def topic_setting(self, name: str, key: str) -> str:
        """One setting of a topic."""
        resource = ConfigResource(ConfigResourceType.TOPIC, name)
        found = self._ask(
            f"asking for {key} of topic {name}",
            lambda c: c.describe_configs([resource], config_filter="all"),
        )
        return str(found["topic"][name][key]["value"])

    def bounds(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
        """First and next offset of partitions; the next one behind all committed records."""
        wanted = [TopicPartition(*place) for place in places]

        def ask(client: KafkaAdminClient) -> dict[tuple[str, int], tuple[int, int]]:
            low = client.list_partition_offsets(dict.fromkeys(wanted, OffsetSpec.EARLIEST))
            end = client.list_partition_offsets(
                dict.fromkeys(wanted, OffsetSpec.LATEST), READ_COMMITTED
            )
            return {(p.topic, p.partition): (low[p].offset, end[p].offset) for p in wanted}

        return self._ask(f"asking for the bounds of {_named(wanted)}", ask) if wanted else {}

    def first_since(self, topic: str, partition: int, at_ms: int) -> int | None:
        """Offset of the first record with this time or a later one; None without any."""
        place = TopicPartition(topic, partition)
        found = self._ask(
            f"asking what {topic}/{partition} holds since {at_ms}",
            lambda c: c.list_partition_offsets({place: at_ms}, READ_COMMITTED),
        )
        offset = int(found[place].offset)
        return offset if offset >= 0 else None

    def commit(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """Write the offsets of a group that has no members."""
        places = {
            TopicPartition(*place): OffsetAndMetadata(offset, "", -1)
            for place, offset in offsets.items()
        }

        def write(client: KafkaAdminClient) -> None:
            for place, error in client.alter_group_offsets(group, places).items():
                if error.errno:
                    raise error(f"{place.topic}/{place.partition}")

        self._ask(f"writing the offsets of group {group}", write)

    def send(self, node: int, request: Any, done: Callable[[Any], None]) -> None:
        """Send a request to a broker; `done` gets the response or a KafkaError, in the thread of
        the client."""
        manager = self._connection.get()._manager
        with explained(f"sending to broker {node}", self._connection.servers):
            sent = manager.call_soon(lambda: manager.send(request, node_id=node))
        sent.add_callback(done)
        sent.add_errback(done)

    def look_again(self) -> None:
        """Addresses of brokers may have changed: have them asked for."""
        self._connection.get()._manager.cluster.request_update()

    def close(self) -> None:
        """Let go of the connection; it is made again if it is needed again."""
        client = self._connection.drop()
        if client is not None:
            client.close()

    def _ask(self, what: str, question: Callable[[KafkaAdminClient], T]) -> T:
        client, until = self._connection.get(), time.monotonic() + AGAIN_SECONDS
        with explained(what, self._connection.servers):
            while True:
                try:
                    return question(client)
                except NodeNotReadyError:
                    # After a lost connection the client stands back, then makes another.
                    if time.monotonic() >= until:
                        raise
                    self.look_again()
                    time.sleep(PAUSE_SECONDS)
                except KafkaError:
                    raise
                except (OSError, RuntimeError):
                    self._connection.drop(client)  # its thread ended
                    raise


def _found(topic: dict[str, Any]) -> Found:
    leaders = {one["partition_index"]: one["leader_id"] for one in topic["partitions"]}
    return Found(str(topic["topic_id"]), tuple(leaders[number] for number in sorted(leaders)))


def _named(places: list[TopicPartition]) -> str:
    return ", ".join(sorted({place.topic for place in places}))
