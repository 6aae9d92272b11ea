"""The broker of the tests is a real one: what it acknowledged survives kill -9."""

from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from tests.deploy.composed import services
from tests.stack.brokers import Broker, BrokerError

pytestmark = pytest.mark.stack


def test_what_a_killed_broker_acknowledged_is_there_after_its_restart(tmp_path: Path) -> None:
    with Broker(tmp_path / "kafka", {"auto.create.topics.enable": "true"}) as broker:
        producer = KafkaProducer(bootstrap_servers=broker.servers)
        producer.send("kept", b"one").get(timeout=30)
        broker.kill()
        producer.close(timeout=0)
        broker.start()
        consumer = KafkaConsumer(bootstrap_servers=broker.servers, group_id=None)
        place = TopicPartition("kept", 0)
        consumer.assign([place])
        consumer.seek(place, 0)
        found = [record.value for record in consumer.poll(timeout_ms=20_000)[place]]
        consumer.close()
    assert found == [b"one"]


@pytest.mark.parametrize("missing", ["java", "mvn"])
def test_what_is_missing_is_named_with_its_remedy(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in {"java", "mvn"} - {missing}:
        (programs / name).touch(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("FRESHET_KAFKA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BrokerError, match=f"need {missing} .*apt install .*FRESHET_TEST_KAFKA"):
        Broker(tmp_path / "kafka").start()


def test_a_broker_takes_the_settings_of_the_compose_file(tmp_path: Path) -> None:
    environment = services("full")["kafka"]["environment"]
    settings = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in environment.items()
        if name != "KAFKA_HEAP_OPTS"
    }
    here = ("listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs")
    assert set(here) <= set(settings)
    more = {name: value for name, value in settings.items() if name not in here}
    with Broker(tmp_path / "kafka", more) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.servers)
        asked = ConfigResource(ConfigResourceType.BROKER, "1")
        found = admin.describe_configs([asked], config_filter="all")
        admin.close()
    [of_broker] = (entries for brokers in found.values() for entries in brokers.values())
    for name, value in more.items():
        assert of_broker[name]["value"] == value
