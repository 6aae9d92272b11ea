"""Commands and servers on Kafka: a replay, and a server whose topic is changed under it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from kafka import KafkaAdminClient

from service.action_types import ActionTypes
from service.actions import Action, key_of, partition_of, stream_key
from service.histories.local import LocalHistories
from service.histories.settings import HistorySettings
from service.intake_settings import IntakeSettings
from service.metrics import ServingMetrics
from service.streams.kafka.stream import KafkaStream
from service.versions import VersionDirectory
from serving.engine import Engine, Tables
from serving.fresh import HistoryFollower
from serving.settings import ServingSettings
from tests.stack.brokers import Broker
from tests.stack.conftest import Given
from tests.stack.patience import read_on, until

pytestmark = pytest.mark.stack

SETTINGS = """
[model]
dim = 8
qk_width = 4
v_width = 4
window = 16
[histories]
capacity = 64
[kafka]
servers = "{servers}"
prefix = "{prefix}"
partitions = 3
"""


def replay(file: Path, data: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`freshet replay` in a process of its own."""
    command = [sys.executable, "-m", "service", "replay", str(file), "--data", str(data), "--json"]
    return subprocess.run([*command, *more], capture_output=True, text=True, check=False)


def test_a_replay_fills_a_topic_and_trains_it_once(
    kafka: Broker | Given, prefix: str, open_kafka: Callable[..., KafkaStream], tmp_path: Path
) -> None:
    file, data = tmp_path / "a.csv", tmp_path / "data"
    rows = [f"u{n % 30},i{n * 7 % 50},{1000 + n}" for n in range(1500)]
    file.write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    (tmp_path / "kafka.toml").write_text(SETTINGS.format(servers=kafka.servers, prefix=prefix))
    done = replay(file, data, "--settings", str(tmp_path / "kafka.toml"), "--publish-every", "10m")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["outcomes"]["trained"] == 1500
    stream = open_kafka(timestamps="producer")
    assert stream.partitions("actions") == 1
    assert stream.bounds("actions", 0) == (0, 1500)
    first, second = read_on(stream, 2)[:2]
    assert (first.append_ms, second.append_ms) == (1_000_000, 1_001_000)
    again = replay(file, data, "--resume")
    assert again.returncode == 0, again.stderr
    assert stream.bounds("actions", 0) == (0, 1500)
    file.write_text("\n".join(["user_id,item_id,timestamp", *rows[:-1], "u1,other,2499"]))
    refused = replay(file, data, "--resume")
    assert refused.returncode == 1
    assert "not the first of this file" in refused.stderr


class Following:
    """A server's histories alone, on Kafka and without any version."""

    def __init__(self, stream: KafkaStream, root: Path) -> None:
        self.metrics = ServingMetrics()
        self.engine = Engine(Tables(LocalHistories(HistorySettings())), 8, 9.0)
        self.follower = HistoryFollower(
            VersionDirectory(root), stream, self.engine, self.metrics, ActionTypes(),
            IntakeSettings(), ServingSettings(poll_seconds=0.05),
        )  # fmt: skip

    def events(self, user: str) -> int:
        """How many events are known of a user."""
        read = self.engine.do(lambda tables: tables.histories.read(np.array([key_of(user)]), 512))
        return int(read.count_B[0])


@contextmanager
def following(stream: KafkaStream, root: Path) -> Iterator[Following]:
    server = Following(stream, root)
    server.engine.start()
    server.follower.start()
    try:
        yield server
    finally:
        server.follower.close()
        server.engine.close()


def act(stream: KafkaStream, user: str, count: int) -> None:
    """So many clicks of a user, now, in the user's partition."""
    partition, key = partition_of(user, stream.partitions("actions")), stream_key(user)
    payloads = [
        msgspec.json.encode(Action(user=user, item=f"i{n}", action="click", at=time.time()))
        for n in range(count)
    ]
    stream.append("actions", partition, payloads, keys=[key] * count)


def test_a_server_is_ready_when_it_has_read_to_the_end(
    open_kafka: Callable[..., KafkaStream], tmp_path: Path
) -> None:
    act(open_kafka(partitions=3), "u1", 200)
    with following(open_kafka(partitions=3), tmp_path) as server:
        assert server.follower.caught_up.wait(30)
        assert server.events("u1") == 200


def test_a_server_follows_a_topic_that_grows_and_one_that_is_made_again(
    kafka: Broker | Given, prefix: str, open_kafka: Callable[..., KafkaStream], tmp_path: Path
) -> None:
    topic, admin = f"{prefix}actions", KafkaAdminClient(bootstrap_servers=kafka.servers)
    act(open_kafka(partitions=2), "u1", 5)
    with following(open_kafka(partitions=2), tmp_path) as server, admin:
        until(lambda: server.events("u1") == 5)
        admin.create_partitions({topic: 5})
        until(lambda: open_kafka().partitions("actions") == 5)
        grown = open_kafka()
        for user in ("u1", "u2", "u3", "u4"):
            act(grown, user, 3)
        until(lambda: [server.events(f"u{n}") for n in range(1, 5)] == [8, 3, 3, 3])
        admin.delete_topics([topic])
        until(lambda: topic not in admin.list_topics())
        act(open_kafka(partitions=2), "u1", 4)
        until(lambda: server.events("u1") == 12)
