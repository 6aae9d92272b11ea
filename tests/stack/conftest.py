"""Real servers, started once for all tests that need them."""

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from service.streams.kafka.settings import KafkaSettings
from service.streams.kafka.stream import KafkaStream
from tests.stack.brokers import Broker, BrokerError
from tests.stack.proxies import Proxy
from tests.stack.redises import RedisError, RedisServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """kafka-python leaves sockets that did not connect to the garbage collector, which warns of
    them whenever it comes to them."""
    left = pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <(socket|ssl):pytest.PytestUnraisableExceptionWarning"
    )
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(left)


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure() -> None:
    """Collect what was left before pytest itself does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@dataclass(frozen=True)
class Given:
    """A broker that somebody else runs."""

    servers: str


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker | Given]:
    """A broker for all tests that do not harm it: `kafka.servers` is its address."""
    if given := os.environ.get("FRESHET_TEST_KAFKA"):
        yield Given(given)
        return
    try:
        broker = Broker(tmp_path_factory.mktemp("kafka"))
        broker.start()
    except BrokerError as error:
        pytest.fail(str(error), pytrace=False)
    yield broker
    broker.kill()


@dataclass(frozen=True)
class Harmed:
    """A broker that tests may kill and pause, and the network before it that they may cut; each
    leaves both as it found them. `servers` goes through that network."""

    broker: Broker
    network: Proxy

    @property
    def servers(self) -> str:
        """The address behind the network that can be cut."""
        return f"127.0.0.1:{self.network.port}"


@pytest.fixture(scope="session")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harmed]:
    """A broker to harm; always one of our own."""
    broker = Broker(tmp_path_factory.mktemp("harmed"), listeners=("PROXIED",))
    with Proxy(int(broker.address("PROXIED").split(":")[1])) as network:
        broker.advertised["PROXIED"] = network.port
        try:
            broker.start()
        except BrokerError as error:
            pytest.fail(str(error), pytrace=False)
        yield Harmed(broker, network)
        broker.kill()


@pytest.fixture
def prefix() -> str:
    """What the names of this test's topics begin with."""
    return f"t{uuid4().hex[:12]}."


@pytest.fixture
def open_kafka(kafka: Broker | Given, prefix: str) -> Iterator[Callable[..., KafkaStream]]:
    """Open streams on this test's topics; all are closed after the test."""
    opened: list[KafkaStream] = []

    def open_another(**settings: object) -> KafkaStream:
        chosen = {"servers": kafka.servers, "prefix": prefix, "partitions": 1, **settings}
        opened.append(KafkaStream(KafkaSettings.model_validate(chosen)))
        return opened[-1]

    yield open_another
    for stream in opened:
        stream.close()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for all tests that do not harm it."""
    with _redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """That Redis, empty."""
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start a Redis that the test may kill, pause or give settings of its own."""
    started: list[RedisServer] = []

    def start(**settings: Any) -> RedisServer:
        server = _redis(tmp_path / f"redis{len(started)}", **settings)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.kill()


def _redis(root: Path, **settings: Any) -> RedisServer:
    try:
        return RedisServer(root, **settings)
    except RedisError as error:
        pytest.fail(str(error), pytrace=False)
