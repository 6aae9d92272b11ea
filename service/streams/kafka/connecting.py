"""How a client of kafka-python is made: addresses, TLS, SASL; and what its errors mean here."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from kafka.errors import (
    AuthorizationError,
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
    UnsupportedVersionError,
)
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from service.errors import SettingsError, StreamError
from service.streams.kafka.settings import (
    KEY_PASSWORD_VARIABLE,
    PASSWORD_VARIABLE,
    USER_VARIABLE,
    KafkaSettings,
)

CONNECT_MS = 5000
REQUEST_MS = 5000
RECONNECT_MAX_MS = 1000
PAUSE_SECONDS = 0.5
"""How long after a failed attempt to connect the next one is made; until then it counts for all."""

Client = TypeVar("Client")


# The client tells every attempt while brokers are away; what matters of it is in our own errors.
if logging.getLogger("kafka").level == logging.NOTSET:
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def options(settings: KafkaSettings) -> dict[str, Any]:
    """What all clients have in common. Raises SettingsError if a secret is missing."""
    made: dict[str, Any] = {
        "bootstrap_servers": settings.servers.split(","),
        "client_id": "freshet",
        "request_timeout_ms": REQUEST_MS,
        "bootstrap_timeout_ms": CONNECT_MS,
        "reconnect_backoff_max_ms": RECONNECT_MAX_MS,
        "security_protocol": _protocol(settings),
    }
    if settings.tls:
        made |= _tls(settings)
    if settings.sasl is not None:
        made |= {
            "sasl_mechanism": settings.sasl,
            "sasl_plain_username": _secret(USER_VARIABLE, settings.sasl),
            "sasl_plain_password": _secret(PASSWORD_VARIABLE, settings.sasl),
        }
    return made


class Connection(Generic[Client]):
    """A client of kafka-python, made when it is first needed, and again after it was dropped."""

    def __init__(self, kind: Callable[..., Client], made: dict[str, Any]) -> None:
        self.servers = ",".join(made["bootstrap_servers"])
        self._kind, self._made = kind, made
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._failed: tuple[float, StreamError] | None = None

    def get(self) -> Client:
        """The client, connected. Raises StreamError."""
        with self._lock:
            if self._client is None:
                if self._failed is not None and time.monotonic() < self._failed[0]:
                    raise self._failed[1]
                try:
                    with explained("connecting", self.servers):
                        self._client = _connected(self._kind, self._made)
                except StreamError as error:
                    self._failed = time.monotonic() + PAUSE_SECONDS, error
                    raise
                self._failed = None
            return self._client

    def drop(self, client: Client | None = None) -> Client | None:
        """Forget the client, or this one if it still is the client; whoever gets it closes it."""
        with self._lock:
            if client is not None and client is not self._client:
                return None
            dropped, self._client = self._client, None
            return dropped


def _connected(kind: Callable[..., Client], made: dict[str, Any]) -> Client:
    """A client, connected. One that does not connect leaves neither thread nor socket behind."""
    inner: list[KafkaNetClient] = []

    def client(**configs: Any) -> KafkaNetClient:
        net = NetworkSelector(**configs)
        inner.append(KafkaNetClient(net, _Manager(net, **configs), **configs))
        return inner[0]

    try:
        return kind(**made, kafka_client=client)
    except BaseException as error:
        for one in inner:
            one.close()
        reason = inner[0]._manager.failure if inner else None
        if isinstance(error, KafkaTimeoutError) and reason is not None:
            raise reason from error
        raise


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    """Remembers why connections failed: the client only says that its time ran out."""

    failure: Exception | None = None

    async def _connect(self, node: Any, connection: Any, **more: Any) -> None:
        connection.close_future.add_errback(self._note)
        await super()._connect(node, connection, **more)

    def _note(self, failure: Exception) -> None:
        self.failure = failure


@contextmanager
def explained(what: str, servers: str) -> Iterator[None]:
    """Turn an error of the client into a StreamError that names what failed, and the remedy."""
    try:
        yield
    except SaslAuthenticationFailedError as error:
        raise StreamError(
            f"{what}: Kafka at {servers} refused the user or the password ({error}); mend "
            f"{USER_VARIABLE} and {PASSWORD_VARIABLE}, or sasl in section [kafka]"
        ) from error
    except AuthorizationError as error:
        raise StreamError(
            f"{what}: Kafka at {servers} does not allow it ({error}); give the user of this "
            "process the right (docs/security.md lists which)"
        ) from error
    except UnsupportedVersionError as error:
        raise StreamError(f"{what}: Kafka at {servers} is older than 3.1; update it") from error
    except (KafkaError, OSError, RuntimeError, ValueError) as error:
        raise StreamError(
            f"{what}: Kafka at {servers} does not answer as it should ({_said(error)}); see that "
            "it runs, and that servers, tls and sasl in section [kafka] are right (with sasl: "
            f"{USER_VARIABLE} and {PASSWORD_VARIABLE}, too)"
        ) from error


def _said(error: Exception) -> str:
    text = str(error)
    name = type(error).__name__
    return text if text.startswith(name) else f"{name}: {text}" if text else name


def _protocol(settings: KafkaSettings) -> str:
    transport = "SSL" if settings.tls else "PLAINTEXT"
    return f"SASL_{transport}" if settings.sasl is not None else transport


def _tls(settings: KafkaSettings) -> dict[str, Any]:
    files = {
        "ssl_cafile": settings.ca_file,
        "ssl_certfile": settings.certificate_file,
        "ssl_keyfile": settings.key_file,
    }
    for file in filter(None, files.values()):
        if not file.is_file():
            raise SettingsError(f"{file}, named in section [kafka], is not there; mend the path")
    return {
        **{name: str(file) for name, file in files.items() if file is not None},
        "ssl_check_hostname": settings.check_hostname,
        "ssl_password": os.environ.get(KEY_PASSWORD_VARIABLE),
    }


def _secret(variable: str, mechanism: str) -> str:
    found = os.environ.get(variable)
    if not found:
        raise SettingsError(
            f"kafka.sasl = {mechanism!r} needs {variable} in the environment; set it, or leave "
            "sasl out"
        )
    return found
