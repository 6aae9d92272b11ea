"""KafkaStream on a real Kafka: what only Kafka has."""

import time
from collections.abc import Callable, Iterator

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from service.action_types import ActionTypes
from service.actions import partition_of, stream_key
from service.errors import OffsetError, StreamError
from service.intake import Intake
from service.intake_settings import IntakeSettings
from service.streams.kafka.stream import KafkaStream
from tests.stack.brokers import Broker, free_port
from tests.stack.patience import payloads, read_on, until

pytestmark = pytest.mark.stack

Open = Callable[..., KafkaStream]


@pytest.fixture
def admin(kafka: Broker) -> Iterator[KafkaAdminClient]:
    with KafkaAdminClient(bootstrap_servers=kafka.servers) as client:
        yield client


def refusal(stream: KafkaStream, offset: int, topic: str = "actions") -> str:
    """What reading at an offset ends in, within a while."""
    said: list[str] = []

    def refused() -> bool:
        try:
            stream.read(topic, 0, offset, 10)
        except OffsetError as error:
            said.append(str(error))
        return bool(said)

    until(refused)
    return said[0]


def test_any_producer_that_keys_by_user_lands_in_the_users_partition(
    open_kafka: Open, kafka: Broker, prefix: str
) -> None:
    stream, users = open_kafka(partitions=5), [*range(20), *(f"user-{n}" for n in range(20))]
    assert stream.partitions("actions") == 5
    producer = KafkaProducer(bootstrap_servers=kafka.servers)
    for user in users:
        sent = producer.send(f"{prefix}actions", b"x", stream_key(user)).get(30)
        assert sent.partition == partition_of(user, 5)
    producer.close()


def test_records_carry_their_keys(open_kafka: Open, kafka: Broker, prefix: str) -> None:
    open_kafka().append("actions", 0, [b"a", b""], keys=[b"u1", b"u2"])
    place = TopicPartition(f"{prefix}actions", 0)
    consumer = KafkaConsumer(bootstrap_servers=kafka.servers, group_id=None)
    consumer.assign([place])
    consumer.seek(place, 0)
    found: list[tuple[bytes, bytes | None]] = []
    until(
        lambda: found.extend((r.key, r.value) for r in consumer.poll(500).get(place, [])) or found
    )
    consumer.close()
    assert found == [(b"u1", b"a"), (b"u2", None)]


def test_topics_are_made_as_the_settings_say(
    open_kafka: Open, admin: KafkaAdminClient, prefix: str
) -> None:
    stream = open_kafka(partitions=3, min_insync_replicas=1, retention_hours=2)
    assert [stream.partitions(topic) for topic in ("actions", "items", "rejected")] == [3, 3, 1]
    config = settings_of(admin, f"{prefix}actions")
    assert config["retention.ms"] == "7200000"
    assert config["message.timestamp.type"] == "LogAppendTime"
    assert settings_of(admin, f"{prefix}items")["cleanup.policy"] == "compact"


def test_what_keeps_producers_times_is_kept_for_ever(
    open_kafka: Open, admin: KafkaAdminClient, prefix: str
) -> None:
    open_kafka(timestamps="producer").partitions("actions")
    assert settings_of(admin, f"{prefix}actions")["retention.ms"] == "-1"


def settings_of(admin: KafkaAdminClient, topic: str) -> dict[str, str]:
    """Every setting of a topic."""
    from kafka.admin import ConfigResource, ConfigResourceType

    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    found = admin.describe_configs([resource], config_filter="all")["topic"][topic]
    return {name: one["value"] for name, one in found.items()}


def test_past_events_need_a_topic_that_keeps_their_times(open_kafka: Open) -> None:
    stream = open_kafka()
    with pytest.raises(StreamError, match=r'LogAppendTime.*timestamps = "producer"'):
        stream.append("actions", 0, [b"x"], 1234)
    assert stream.append("actions", 0, [b"x"]) == 0


def test_what_retention_has_deleted_is_an_error_with_the_remedy(
    open_kafka: Open, admin: KafkaAdminClient, prefix: str
) -> None:
    stream = open_kafka()
    stream.append("actions", 0, [b"x"] * 10)
    admin.delete_records({TopicPartition(f"{prefix}actions", 0): 6})
    assert stream.bounds("actions", 0) == (6, 10)
    assert "--from earliest" in refusal(stream, 2)
    assert len(read_on(stream, 4, offset=6)) == 4
    offsets = {"actions": {0: 2}}
    with pytest.raises(OffsetError, match=r"outside the stream \(6 .. 10\)"):
        Intake(stream, IntakeSettings(topics=("actions",)), ActionTypes(), offsets)


def test_a_topic_that_is_made_again_is_not_read_as_the_old_one(
    open_kafka: Open, admin: KafkaAdminClient, prefix: str
) -> None:
    stream, topic = open_kafka(), f"{prefix}actions"
    old = stream.topic_id("actions")
    stream.append("actions", 0, [b"old"] * 5)
    read_on(stream, 5)
    admin.delete_topics([topic])
    until(lambda: topic not in admin.list_topics())
    other = open_kafka()
    other.append("actions", 0, [b"new"] * 20)
    assert "deleted and made again" in refusal(stream, 5)
    with pytest.raises(StreamError, match="deleted and made again"):
        stream.append("actions", 0, [b"lost"])
    # Who asks what the topic is takes it as it is now.
    assert stream.topic_id("actions") == other.topic_id("actions") != old
    assert payloads(read_on(stream, 20)) == [b"new"] * 20
    assert stream.append("actions", 0, [b"after"]) == 20


def test_a_topic_that_grows_is_an_error_while_it_is_read_and_at_the_next_start(
    open_kafka: Open, admin: KafkaAdminClient, prefix: str
) -> None:
    stream = open_kafka(partitions=2)
    stream.append("actions", 0, [b"x"])
    intake = Intake(stream, IntakeSettings(topics=("actions",)), ActionTypes())
    read_on(stream, 1)
    admin.create_partitions({f"{prefix}actions": 3})
    assert "had 2 partitions and now has 3" in refusal(stream, 1)
    with pytest.raises(OffsetError, match="has 3 partitions, the offsets are of"):
        Intake(stream, IntakeSettings(topics=("actions",)), ActionTypes(), intake.offsets)


def test_aborted_transactions_are_not_read_and_their_offsets_are_gaps(
    open_kafka: Open, kafka: Broker, prefix: str
) -> None:
    stream, topic = open_kafka(), f"{prefix}actions"
    stream.append("actions", 0, [b"before"])
    producer = KafkaProducer(bootstrap_servers=kafka.servers, transactional_id=prefix)
    producer.init_transactions()
    producer.begin_transaction()
    for _ in range(3):
        producer.send(topic, b"aborted", b"u")
    producer.flush()
    producer.abort_transaction()
    producer.begin_transaction()
    producer.send(topic, b"committed", b"u").get(30)
    open_since = stream.bounds("actions", 0)[1]
    assert payloads(read_on(stream, 1)) == [b"before"]
    producer.commit_transaction()
    producer.close()
    found = read_on(stream, 2)
    assert payloads(found) == [b"before", b"committed"]
    assert found[1].offset == open_since == 5
    assert stream.bounds("actions", 0)[1] == 7
    until(lambda: stream.read("actions", 0, 6, 10) == [] and stream.drained("actions", 0, 6))


def test_a_transaction_that_is_open_is_not_read(
    open_kafka: Open, kafka: Broker, prefix: str
) -> None:
    stream = open_kafka()
    stream.partitions("actions")
    producer = KafkaProducer(bootstrap_servers=kafka.servers, transactional_id=prefix)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(f"{prefix}actions", b"open", b"u").get(30)
    stream.append("actions", 0, [b"behind it"])
    time.sleep(0.5)
    assert stream.read("actions", 0, 0, 10) == []
    assert stream.bounds("actions", 0) == (0, 0)
    producer.commit_transaction()
    producer.close()
    assert payloads(read_on(stream, 2)) == [b"open", b"behind it"]


def test_a_compacted_topic_has_gaps(open_kafka: Open, admin: KafkaAdminClient, prefix: str) -> None:
    config = {
        "cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01",
        "max.compaction.lag.ms": "200",
    }  # fmt: skip
    topic = {"num_partitions": 1, "replication_factor": 1, "configs": config}
    admin.create_topics({f"{prefix}items": topic}, wait_for_metadata=True)
    stream = open_kafka()
    for number in range(20):
        stream.append("items", 0, [b"%d" % number], keys=[b"item-%d" % (number % 2)])

    def compacted() -> bool:
        # A segment is closed, and can be compacted, only when the next record comes.
        stream.append("items", 0, [b"last"], keys=[b"last"])
        time.sleep(0.2)
        found = stream.read("items", 0, 0, 100) or stream.read("items", 0, 0, 100)
        return bool(found) and found[0].offset > 0

    until(compacted)
    found = read_on(stream, 3, topic="items")
    assert payloads(found[:2]) == [b"18", b"19"]
    assert [record.offset for record in found[:2]] == [18, 19]


@pytest.mark.parametrize("compression", ["none", "gzip", "lz4", "zstd"])
def test_every_compression_can_be_read(open_kafka: Open, compression: str) -> None:
    stream, sent = open_kafka(compression=compression), [b"%d" % n * 50 for n in range(500)]
    stream.append("actions", 0, sent)
    assert payloads(read_on(stream, 500)) == sent


def test_a_payload_that_no_broker_takes_says_so_before_anything_is_sent(open_kafka: Open) -> None:
    stream = open_kafka()
    with pytest.raises(StreamError, match="payload of 1000001 bytes exceeds 999900"):
        stream.append("actions", 0, [b"x", b"y" * 1_000_001])
    assert stream.bounds("actions", 0) == (0, 0)
    stream.append("actions", 0, [b"y" * 999_000])
    assert len(read_on(stream, 1)[0].payload) == 999_000


def test_progress_is_shown_as_the_offsets_of_a_group(
    open_kafka: Open, admin: KafkaAdminClient, prefix: str
) -> None:
    stream, group = open_kafka(group=f"{prefix}trainer"), f"{prefix}trainer"
    stream.append("actions", 0, [b"x"] * 10)
    stream.progress({"actions": {0: 3}})
    stream.progress({"actions": {0: 7}})
    place = TopicPartition(f"{prefix}actions", 0)
    until(lambda: shown(admin, group).get(place) == 7)
    stream.progress({"actions": {0: 9}})
    stream.close()
    assert shown(admin, group)[place] == 9


def shown(admin: KafkaAdminClient, group: str) -> dict[TopicPartition, int]:
    """What a group has committed."""
    from kafka.errors import KafkaError

    try:
        found = admin.list_group_offsets({group: None})[group]
    except KafkaError:
        return {}
    return {place: one.offset for place, one in found.items()}


def test_a_broker_that_is_not_there_is_named_with_the_remedy(open_kafka: Open) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    stream = open_kafka(servers=nobody)
    with pytest.raises(StreamError, match=rf"Kafka at {nobody} .*section \[kafka\]"):
        stream.append("actions", 0, [b"x"])
    with pytest.raises(StreamError, match=nobody):
        stream.bounds("actions", 0)
