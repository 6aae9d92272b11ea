"""One way to make a connection: bounded waits, no hidden retries, errors that are ours."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import TimeoutError as Late
from redis.retry import Retry

from service.errors import FreshetError
from service.redis.settings import PASSWORD, RedisSettings


class RedisAway(FreshetError):
    """Redis did not do what it was asked for: it is away, slow, full, or does not allow it."""


class RedisDenied(RedisAway):
    """Redis refused who asks, or what is asked: its ACL or our credentials need mending."""


class RedisSlow(RedisAway):
    """Redis did not answer in time."""


def connect(
    settings: RedisSettings,
    timeout_seconds: float | None = None,
    check_seconds: int = 0,
    connect_seconds: float | None = None,
) -> Redis:
    """A client that connects when it is first used. A command is tried once: who calls knows what
    another attempt is worth.

    timeout_seconds, connect_seconds: longest wait for a reply, for a connection (default: as the
    settings say); check_seconds: after so long a silence a connection is checked before it is used
    (0: never). Raises SettingsError.
    """
    return Redis.from_url(
        settings.address,
        **settings.tls,
        **_credentials(settings),
        socket_connect_timeout=connect_seconds or settings.connect_seconds,
        socket_timeout=timeout_seconds or settings.timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=check_seconds,
        protocol=2,
        driver_info=None,
    )


@contextmanager
def redis_errors() -> Iterator[None]:
    """What goes wrong inside is raised as RedisAway, or as what it is more closely."""
    try:
        yield
    except (AuthenticationError, NoPermissionError) as error:
        raise RedisDenied(
            f"Redis refuses: {error}; mend redis.username, {PASSWORD} or the ACL of that user"
        ) from error
    except Late as error:
        raise RedisSlow(f"Redis is slow: {error}") from error
    except (RedisError, OSError) as error:
        raise RedisAway(f"Redis cannot be used: {error}") from error


def _credentials(settings: RedisSettings) -> dict[str, str]:
    given = {"username": settings.username, "password": os.environ.get(PASSWORD)}
    return {name: value for name, value in given.items() if value}
