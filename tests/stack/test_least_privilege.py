"""The rules that docs/security.md gives to Kafka's authorizer are enough, and no more than that."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.errors import KafkaError

from service.errors import StreamError
from service.streams.kafka.settings import PASSWORD_VARIABLE, USER_VARIABLE, KafkaSettings
from service.streams.kafka.stream import KafkaStream
from tests.stack.brokers import Broker, BrokerError
from tests.stack.patience import read_on, until

pytestmark = pytest.mark.stack

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
ROLES = ("trainer", "server", "histories")
TOPICS = ("actions", "impressions", "items", "rejected")
PREFIX = "shop."
LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
GUARDED = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "false",
    "super.users": "User:ANONYMOUS",  # the listener without SASL, of this test and of the broker
    "sasl.enabled.mechanisms": "PLAIN",
    "listener.name.sasl_plaintext.plain.sasl.jaas.config": " ".join(
        [LOGIN, *(f'user_{role}="secret-of-{role}"' for role in ROLES)]
    )
    + ";",
}
EVERY_RULE = ACLFilter(
    None,
    None,
    ACLOperation.ANY,
    ACLPermissionType.ANY,
    ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY),
)


def rules() -> list[tuple[str, str, str, str]]:
    """(role, kind of resource, name, operation) as the page says."""
    (block,) = re.findall(r"```acl\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [
        (role, kind, name, operation)
        for role, kind, name, *operations in map(str.split, block.splitlines())
        for operation in operations
    ]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that lets the roles do what the page says, with all topics made."""
    try:
        broker = Broker(tmp_path_factory.mktemp("guarded"), GUARDED, ("SASL_PLAINTEXT",))
        broker.start()
    except BrokerError as error:
        pytest.fail(str(error), pytrace=False)
    with closing(KafkaAdminClient(bootstrap_servers=broker.servers)) as admin:
        admin.create_topics(
            {PREFIX + topic: {"num_partitions": 1, "replication_factor": 1} for topic in TOPICS}
        )
        admin.create_acls([acl(*rule) for rule in rules()])
        until(lambda: len(admin.describe_acls(EVERY_RULE)[0]) == len(rules()))
    yield broker
    broker.kill()


def acl(role: str, kind: str, name: str, operation: str) -> ACL:
    resource = ResourcePattern(
        ResourceType[kind.upper()], PREFIX + name if kind == "topic" else name
    )
    allowed = ACLOperation[operation.upper()], ACLPermissionType.ALLOW
    return ACL(f"User:{role}", "*", *allowed, resource)


@pytest.fixture
def stream_of(
    guarded: Broker, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], KafkaStream]]:
    opened: list[KafkaStream] = []

    def open_as(role: str) -> KafkaStream:
        monkeypatch.setenv(USER_VARIABLE, role)
        monkeypatch.setenv(PASSWORD_VARIABLE, f"secret-of-{role}")
        settings = KafkaSettings(
            servers=guarded.address("SASL_PLAINTEXT"),
            prefix=PREFIX,
            sasl="PLAIN",
            append_timeout_seconds=5,
        )
        opened.append(KafkaStream(settings))
        return opened[-1]

    yield open_as
    for stream in opened:
        stream.close()


def test_the_page_names_every_role_and_topic() -> None:
    assert {role for role, *_ in rules()} == set(ROLES)
    assert {name for _, kind, name, _ in rules() if kind == "topic"} == set(TOPICS)


def test_each_role_may_do_what_it_does(stream_of: Callable[[str], KafkaStream]) -> None:
    server = stream_of("server")
    for topic in ("actions", "impressions", "items"):
        server.append(topic, 0, [b"of the server"], keys=[b"u1"])
    for topic in ("actions", "items"):
        assert server.topic_id(topic)
        assert read_on(server, 1, topic=topic)
    trainer = stream_of("trainer")
    trainer.append("rejected", 0, [b"of the trainer"])
    for topic in ("actions", "impressions", "items"):
        assert read_on(trainer, 1, topic=topic)
    assert read_on(stream_of("histories"), 1)


def test_progress_of_the_trainer_is_shown(
    guarded: Broker, stream_of: Callable[[str], KafkaStream]
) -> None:
    trainer = stream_of("trainer")
    trainer.topic_id("actions")
    with closing(KafkaAdminClient(bootstrap_servers=guarded.servers)) as admin:

        def shown() -> bool:
            """The brokers make the topic of groups when it is first asked for."""
            trainer.progress({"actions": {0: 0}})
            with suppress(KafkaError):
                offsets = admin.list_group_offsets("freshet-trainer")["freshet-trainer"]
                return [place.topic for place in offsets] == [f"{PREFIX}actions"]
            return False

        until(shown)


@pytest.mark.parametrize(
    ("role", "topic"),
    [
        ("trainer", "actions"), ("trainer", "impressions"), ("trainer", "items"),
        ("server", "rejected"), ("histories", "actions"), ("histories", "impressions"),
    ],
)  # fmt: skip
def test_no_role_may_write_more(
    stream_of: Callable[[str], KafkaStream], role: str, topic: str
) -> None:
    with pytest.raises(StreamError, match=r"does not allow it|ClusterAuthorization"):
        stream_of(role).append(topic, 0, [b"forged"])
