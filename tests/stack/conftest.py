"""Real servers, started once for all tests that need them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest

from tests.stack.brokers import Broker, BrokerError


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


@pytest.fixture
def prefix() -> str:
    """What the names of this test's topics begin with."""
    return f"t{uuid4().hex[:12]}."
