"""Topic items on a real Kafka: compacted, keyed, with tombstones, whoever writes it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from service.items import Item, item_key
from tests.serving.conftest import Publisher, running

pytestmark = pytest.mark.stack


def config_of(servers: str, topic: str) -> str:
    admin = KafkaAdminClient(bootstrap_servers=servers)
    try:
        described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    finally:
        admin.close()
    return str(described)


def test_items_of_other_producers_their_tombstones_and_a_server_that_starts_later(
    kafka: Any, prefix: str, tmp_path: Path
) -> None:
    Publisher(tmp_path)(1)
    settings = {"servers": kafka.servers, "prefix": prefix, "partitions": 3}
    items = [*(f"k{n}" for n in range(30)), 7, "7"]

    def known(site: Any) -> set[Any]:
        answer = site.client.recommend("u1", n=500, categories=["kafka"])
        return {one["item"] for one in answer["items"]}

    with running(tmp_path, kafka=settings) as site:
        site.until_ready()
        told = [{"item": one, "categories": ["kafka"]} for one in items]
        assert site.client.put_items(told)["accepted"] == len(items)
        site.until(lambda: known(site) == set(items))
        assert "compact" in config_of(kafka.servers, f"{prefix}items")
        producer = KafkaProducer(bootstrap_servers=kafka.servers)
        topic = f"{prefix}items"
        producer.send(topic, key=item_key(7), value=None)
        hidden = msgspec.json.encode(Item(item="k4", categories=["kafka"], hidden=True))
        producer.send(topic, key=item_key("k4"), value=hidden)
        producer.close()
        site.until(lambda: known(site) == set(items) - {7, "k4"})
        assert site.client.put_items([{"item": "k5", "deleted": True}])["accepted"] == 1
        site.until(lambda: "k5" not in known(site))
    with running(tmp_path, kafka=settings) as again:
        again.until_ready()
        assert known(again) == set(items) - {7, "k4", "k5"}
