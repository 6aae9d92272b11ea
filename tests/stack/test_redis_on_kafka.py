"""The histories in Redis, written from Kafka."""

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.actions import key_of
from service.streams.kafka.settings import KafkaSettings
from service.streams.kafka.stream import KafkaStream
from tests.stack.followed import Followed, random_actions, same
from tests.stack.redises import RedisServer

pytestmark = pytest.mark.stack


def test_values_written_from_kafka_are_those_of_one_process(
    kafka: Any, prefix: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    settings = KafkaSettings(
        servers=kafka.servers, prefix=prefix, partitions=3, timestamps="producer"
    )
    with closing(Followed(tmp_path, redis_server, stream=KafkaStream(settings))) as followed:
        written_from_kafka(followed)


def written_from_kafka(followed: Followed) -> None:
    actions = random_actions(0, 3000)
    followed.append(actions[:1500])
    followed.write()
    with followed.running():
        followed.append(actions[1500:])
        followed.until_written()
    offsets = followed.ends
    local, watermark_ms = followed.local()
    read = 0
    for user in [f"u{number}" for number in range(30)]:
        expected = local.read(np.array([key_of(user)]), 64, watermark_ms)
        assert same(followed.history(user, watermark_ms), expected)
        read += int(expected.count_B[0])
    assert read > 100
    assert sum(offsets.values()) == 3000
    # A writer that begins again finds that everything is contained already.
    before = followed.values()
    topic_id = followed.stream.topic_id("actions")
    zeros = {f"offset:{partition}": 0 for partition in offsets}
    followed.client.hset(f"freshet:progress:{topic_id}", mapping=zeros)
    followed.write()
    assert followed.values() == before
