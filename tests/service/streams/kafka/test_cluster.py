"""Brokers asked while the client has no connection to any: it is asked again, for a while."""

from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import NodeNotReadyError

from service.errors import StreamError
from service.streams.kafka import cluster as module
from service.streams.kafka.cluster import Cluster


class Client:
    """Has no connection for the first `refusals` questions."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.looked_again = 0
        self._manager = SimpleNamespace(cluster=self)

    def request_update(self) -> None:
        self.looked_again += 1

    def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        if self.refusals > 0:
            self.refusals -= 1
            raise NodeNotReadyError("No node_id provided")
        topic = {"name": names[0], "error_code": 0, "topic_id": "t", "partitions": []}
        return [topic]


def asked(client: Client) -> Cluster:
    cluster = Cluster({"bootstrap_servers": ["nowhere:1"]})
    cluster._connection = SimpleNamespace(get=lambda: client, servers="nowhere:1")  # type: ignore[assignment]
    return cluster


def test_a_client_without_a_connection_is_asked_again() -> None:
    client = Client(refusals=3)
    assert asked(client).describe(["actions"])["actions"].id == "t"
    assert client.looked_again == 3


def test_it_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.1)
    with pytest.raises(StreamError, match="does not answer as it should"):
        asked(Client(refusals=10**9)).describe(["actions"])
