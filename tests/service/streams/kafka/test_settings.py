"""Section [kafka]: which stream it means, and what of it cannot be."""

import logging
from pathlib import Path
from typing import Any

import pytest
from kafka.errors import (
    GroupAuthorizationFailedError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
    UnsupportedVersionError,
)

from service.errors import SettingsError, StreamError
from service.settings import Settings
from service.streams import LocalStream, open_stream
from service.streams.kafka.connecting import Connection, explained, options
from service.streams.kafka.settings import (
    PASSWORD_VARIABLE,
    SERVERS_VARIABLE,
    USER_VARIABLE,
    KafkaSettings,
    kafka_settings,
)
from service.streams.kafka.stream import KafkaStream


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SERVERS_VARIABLE, USER_VARIABLE, PASSWORD_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def test_without_section_and_variable_the_stream_is_the_embedded_one(tmp_path: Path) -> None:
    stream = open_stream(Settings(), tmp_path)
    assert isinstance(stream, LocalStream)
    assert stream.root == tmp_path / "stream"
    stream.close()


def test_a_section_or_the_variable_means_kafka(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = open_stream(Settings({"kafka": {"servers": "a:9092"}}), tmp_path)
    assert isinstance(stream, KafkaStream)  # it connects when it is first used
    stream.close()
    monkeypatch.setenv(SERVERS_VARIABLE, "b:9092,c:9092")
    found = kafka_settings(Settings())
    assert found is not None
    assert options(found)["bootstrap_servers"] == ["b:9092", "c:9092"]
    named = kafka_settings(Settings({"kafka": {"servers": "a:9092", "partitions": 7}}))
    assert named is not None
    assert (named.servers, named.partitions) == ("b:9092,c:9092", 7)


def test_a_section_without_servers_is_no_reason_to_use_another_log(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"names no servers: .*{SERVERS_VARIABLE}"):
        open_stream(Settings({"kafka": {"partitions": 2}}), tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"server": "a:9092"}, "did you mean servers"),
        ({"ca_file": "ca.pem"}, "with tls = true only"),
        ({"tls": True, "key_file": "key.pem"}, "belong together"),
        ({"sasl": "GSSAPI"}, "kafka.sasl"),
        ({"prefix": "a b"}, "kafka.prefix"),
    ],
)
def test_what_cannot_be_is_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        kafka_settings(Settings({"kafka": {"servers": "a:9092", **wrong}}))


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    settings = KafkaSettings(
        servers="a:9092", tls=True, ca_file=tmp_path / "ca.pem", sasl="SCRAM-SHA-512"
    )
    with pytest.raises(SettingsError, match=USER_VARIABLE):
        options(settings)
    monkeypatch.setenv(USER_VARIABLE, "me")
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    made = options(settings)
    assert made["security_protocol"] == "SASL_SSL"
    assert (made["sasl_plain_username"], made["sasl_plain_password"]) == ("me", "secret")
    assert made["ssl_cafile"] == str(tmp_path / "ca.pem")


def test_times_of_producers_are_no_reason_to_delete() -> None:
    assert KafkaSettings(retention_hours=1).retention_ms == 3_600_000
    assert KafkaSettings(retention_hours=1, timestamps="producer").retention_ms == -1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SaslAuthenticationFailedError("no"), f"refused the user .*{PASSWORD_VARIABLE}"),
        (GroupAuthorizationFailedError("no"), "does not allow it .*the right"),
        (UnsupportedVersionError("no"), "is older than 3.1"),
        (KafkaTimeoutError("no"), "does not answer as it should"),
        (OSError("no"), "does not answer as it should"),
    ],
)
def test_errors_of_the_client_name_the_remedy(error: Exception, said: str) -> None:
    with (
        pytest.raises(StreamError, match=f"asking: Kafka at a:1 {said}"),
        explained("asking", "a:1"),
    ):
        raise error


def test_who_cannot_connect_is_not_asked_by_everyone_at_once() -> None:
    attempts: list[int] = []

    def failing(**made: Any) -> None:
        attempts.append(1)
        raise KafkaTimeoutError("nobody there")

    connection: Connection[None] = Connection(failing, {"bootstrap_servers": ["a:1"]})
    for _ in range(3):
        with pytest.raises(StreamError, match="connecting: Kafka at a:1"):
            connection.get()
    assert len(attempts) == 1
    assert connection.drop() is None


def test_the_clients_own_log_is_quiet_unless_it_was_asked_for() -> None:
    assert logging.getLogger("kafka").level == logging.CRITICAL
