"""TLS and SASL against a real Kafka: who may come, and what who may not is told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from service.errors import SettingsError, StreamError
from service.streams.kafka.settings import PASSWORD_VARIABLE, USER_VARIABLE, KafkaSettings
from service.streams.kafka.stream import KafkaStream
from tests.stack.brokers import Broker, BrokerError
from tests.stack.certificates import Authority
from tests.stack.patience import payloads, read_on

pytestmark = pytest.mark.stack

USER, PASSWORD = "freshet", "correct horse"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ca")


@pytest.fixture(scope="module")
def guarded(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Takes clients with a certificate on SSL, and users on the two SASL listeners."""
    folder = tmp_path_factory.mktemp("guarded")
    certificate, key = authority.signed("broker")
    identity = folder / "broker.pem"
    identity.write_text(key.read_text() + certificate.read_text())
    plain = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        f'user_{USER}="{PASSWORD}";'
    )
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    properties = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(identity),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.certificate),
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
    }
    for listener in ("sasl_ssl", "sasl_plaintext"):
        for mechanism, module in (
            ("plain", plain), ("scram-sha-256", scram), ("scram-sha-512", scram)
        ):  # fmt: skip
            properties[f"listener.name.{listener}.{mechanism}.sasl.jaas.config"] = module
    broker = Broker(
        folder / "kafka", properties, ("SSL", "SASL_SSL", "SASL_PLAINTEXT"), {USER: PASSWORD}
    )
    try:
        broker.start()
    except BrokerError as error:
        pytest.fail(str(error), pytrace=False)
    yield broker
    broker.kill()


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The right user and password in the environment."""
    monkeypatch.setenv(USER_VARIABLE, USER)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    return monkeypatch


def settings(servers: str, **more: Any) -> KafkaSettings:
    return KafkaSettings.model_validate(
        {"servers": servers, "prefix": f"{uuid4().hex[:8]}.", "append_timeout_seconds": 5, **more}
    )


def check_works(chosen: KafkaSettings) -> None:
    stream = KafkaStream(chosen)
    try:
        stream.append("actions", 0, [b"secret"], keys=[b"u"])
        assert payloads(read_on(stream, 1)) == [b"secret"]
    finally:
        stream.close()


def check_refused(chosen: KafkaSettings, match: str) -> None:
    stream = KafkaStream(chosen)
    try:
        with pytest.raises(StreamError, match=match):
            stream.append("actions", 0, [b"x"])
    finally:
        stream.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_users_come_in_by_every_mechanism(
    guarded: Broker, authority: Authority, secrets: pytest.MonkeyPatch, mechanism: str
) -> None:
    check_works(
        settings(
            guarded.address("SASL_SSL"), tls=True, ca_file=authority.certificate, sasl=mechanism
        )
    )


def test_users_come_in_without_tls(guarded: Broker, secrets: pytest.MonkeyPatch) -> None:
    check_works(settings(guarded.address("SASL_PLAINTEXT"), sasl="SCRAM-SHA-256"))


def test_a_wrong_password_is_refused_and_never_shown(
    guarded: Broker, secrets: pytest.MonkeyPatch
) -> None:
    secrets.setenv(PASSWORD_VARIABLE, "wrong battery")
    stream = KafkaStream(settings(guarded.address("SASL_PLAINTEXT"), sasl="SCRAM-SHA-256"))
    # The broker says why and hangs up; of what comes at once the client may hear only the latter.
    with pytest.raises(StreamError, match=r"refused the user|does not answer") as raised:
        stream.bounds("actions", 0)
    assert PASSWORD_VARIABLE in str(raised.value)
    assert "wrong battery" not in str(raised.value)
    stream.close()


def test_certificates_are_asked_for_and_checked(
    guarded: Broker, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.signed("client")
    files = {"certificate_file": certificate, "key_file": key}
    address = guarded.address("SSL")
    check_works(settings(address, tls=True, ca_file=authority.certificate, **files))
    check_refused(settings(address, tls=True, ca_file=authority.certificate), "does not answer")
    stranger = Authority(tmp_path / "stranger")
    check_refused(
        settings(address, tls=True, ca_file=stranger.certificate, **files), "tls and sasl in"
    )


def test_what_is_missing_for_security_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    monkeypatch.setenv(USER_VARIABLE, USER)
    with pytest.raises(SettingsError, match=f"needs {PASSWORD_VARIABLE} in the environment"):
        KafkaStream(settings("127.0.0.1:1", sasl="PLAIN"))
    with pytest.raises(SettingsError, match=r"no\.pem, named in section \[kafka\], is not there"):
        KafkaStream(settings("127.0.0.1:1", tls=True, ca_file=tmp_path / "no.pem"))
