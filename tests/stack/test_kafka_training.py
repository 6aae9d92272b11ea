"""Trainers on Kafka, killed with and without their broker: every action is trained once."""

import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from kafka import KafkaAdminClient, TopicPartition

from service.actions import partition_of, stream_key
from service.errors import StreamError
from service.streams import Stream
from tests.end_to_end.sites import DEADLINE_SECONDS, Site, check_counts, killed_at_the_end
from tests.stack.brokers import Broker
from tests.stack.conftest import Given, Harmed
from tests.trainer.workshop import Told, Workshop, settings, told

pytestmark = pytest.mark.stack

PARTITIONS = 3
AT_ONCE = 40
Part = list[tuple[int, bytes, bytes]]
"""Time, payload and key of records."""


def site_on(servers: str, root: Path, **trainer: Any) -> Site:
    """A site whose streams are topics of its own."""
    sections = settings(
        store={"item": {"ttl_seconds": 600}},
        trainer={"publish_seconds": 30, "sweep_rows": 20, **trainer},
    )
    kafka = {
        "servers": servers, "prefix": f"s{uuid4().hex[:10]}.", "partitions": PARTITIONS,
        "timestamps": "producer", "append_timeout_seconds": 3,
    }  # fmt: skip
    root.mkdir(exist_ok=True)
    return Site(Workshop(root, {**sections, "kafka": kafka}))


def appends(story: Told) -> list[tuple[str, int, Part]]:
    """A story as appends of some records to the partitions of their users."""
    found: list[tuple[str, int, Part]] = []
    for first in range(0, max(map(len, story.payloads.values())), AT_ONCE):
        for topic, told_of in story.payloads.items():
            parts: dict[int, Part] = {}
            for at_ms, payload in told_of[first : first + AT_ONCE]:
                try:
                    user = msgspec.json.decode(payload)["user"]
                except msgspec.DecodeError:
                    user = "nobody"
                part = parts.setdefault(partition_of(user, PARTITIONS), [])
                part.append((at_ms, payload, stream_key(user)))
            found += [(topic, partition, part) for partition, part in parts.items()]
    return found


def append(stream: Stream, topic: str, partition: int, part: Part) -> None:
    """Append a part as one who is alone: after a failure the log says how much of it is there."""
    before = insisting(lambda: stream.bounds(topic, partition)[1])
    end = before + len(part)
    while (done := insisting(lambda: stream.bounds(topic, partition)[1]) - before) < end - before:
        times, payloads, keys = zip(*part[done:], strict=True)
        try:
            stream.append(topic, partition, payloads, times, keys)
        except StreamError:
            time.sleep(0.5)


def insisting(ask: Any) -> Any:
    while True:
        try:
            return ask()
        except StreamError:
            time.sleep(0.2)


def tell(site: Site, story: Told, pause_seconds: float = 0.0) -> None:
    """Append a story, and say that it was all."""
    with closing(site.workshop.stream()) as stream:
        for one in appends(story):
            append(stream, *one)
            time.sleep(pause_seconds)
    site.end()


def uninterrupted(servers: str, story: Told, root: Path) -> Site:
    site = site_on(servers, root)
    tell(site, story)
    check_counts(site.finish(), story)
    return site


def test_killed_trainers_on_kafka_train_every_action_once_and_bit_for_bit(
    kafka: Broker | Given, tmp_path: Path
) -> None:
    story = told(1500, users=100, items=200)
    whole = uninterrupted(kafka.servers, story, tmp_path / "whole")
    site = site_on(kafka.servers, tmp_path / "killed")
    tell(site, story)
    assert site.killed_at_random(kills=2, versions=whole.newest(), seed=0) >= 1
    check_counts(site.finish(), story)
    assert site.workshop.digest() == whole.workshop.digest()


def test_a_broker_killed_in_mid_stream_changes_nothing_of_what_is_trained(
    harmed: Harmed, tmp_path: Path
) -> None:
    story = told(1500, seed=1, users=100, items=200)
    whole = uninterrupted(harmed.broker.servers, story, tmp_path / "whole")
    site = site_on(harmed.broker.servers, tmp_path / "killed")
    telling = threading.Thread(target=tell, args=(site, story, 0.05), daemon=True)
    telling.start()
    trainer = site.trainer("--until-end")
    with killed_at_the_end(trainer):
        deadline = time.monotonic() + DEADLINE_SECONDS
        while site.newest() < whole.newest() // 3:
            assert trainer.poll() is None, site.log[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        harmed.broker.kill()
        time.sleep(2)
        assert trainer.poll() is None, site.log[-3000:]
        harmed.broker.start()
        telling.join()
        assert trainer.wait(DEADLINE_SECONDS) == 0, site.log[-3000:]
    check_counts(site.finish(), story)
    assert site.workshop.digest() == whole.workshop.digest()


def test_a_trainer_whose_records_have_aged_out_says_so_and_goes_on_as_it_is_told(
    kafka: Broker | Given, tmp_path: Path
) -> None:
    story = told(600, users=30)
    site = site_on(kafka.servers, tmp_path / "site")
    tell(site, story)
    site.finish()
    topic = site.workshop.sections["kafka"]["prefix"] + "actions"
    with KafkaAdminClient(bootstrap_servers=kafka.servers) as admin:
        tell(site, told(300, seed=2, users=30))
        admin.delete_records({TopicPartition(topic, p): -1 for p in range(PARTITIONS)})
    tell(site, told(200, seed=3, users=30))
    trainer = site.trainer("--until-end")
    assert trainer.wait(DEADLINE_SECONDS) == 1
    assert "outside the stream" in site.log
    assert "--from earliest" in site.log
    trainer = site.trainer("--until-end", "--from", "earliest")
    assert trainer.wait(DEADLINE_SECONDS) == 0, site.log[-3000:]


@pytest.mark.long
def test_many_kills_of_trainers_on_kafka(kafka: Broker | Given, tmp_path: Path) -> None:
    story = told(20_000, users=500, items=800)
    whole = uninterrupted(kafka.servers, story, tmp_path / "whole")
    site = site_on(kafka.servers, tmp_path / "killed")
    telling = threading.Thread(target=tell, args=(site, story, 0.01), daemon=True)
    telling.start()
    assert site.killed_at_random(kills=25, versions=whole.newest(), seed=0) >= 20
    telling.join()
    check_counts(site.finish(), story)
    assert site.workshop.digest() == whole.workshop.digest()
