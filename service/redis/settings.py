"""The `[redis]` section: with it histories lie in Redis and versions are announced there."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, model_validator

from service.errors import SettingsError
from service.settings import Section, Settings

URL, PASSWORD = "FRESHET_REDIS_URL", "FRESHET_REDIS_PASSWORD"
"""Environment variables; they stand above the file."""

_SCHEMES = ("redis", "rediss", "unix")


class RedisSettings(Section):
    """Where Redis is, who asks, and how long anybody waits for it. No secrets: those come from the
    environment."""

    url: str = "redis://127.0.0.1:6379/0"
    """redis://HOST:PORT/DB, rediss:// for TLS, unix:///PATH for a socket of this machine."""
    username: str | None = None
    """The ACL user; its password is in FRESHET_REDIS_PASSWORD."""
    ca_file: Path | None = None
    """Whose certificates to believe, PEM; the system's authorities without it."""
    cert_file: Path | None = None
    key_file: Path | None = None
    prefix: str = Field("freshet:", pattern=r"^[\w:.-]+$")
    """What every key and channel begins with."""
    connect_seconds: float = Field(1.0, gt=0)
    timeout_seconds: float = Field(5.0, gt=0)
    """Longest wait for a reply, of everyone but a ranking."""
    wait_ms: float = Field(20.0, gt=0)
    """Longest wait of a ranking for its user's history."""
    retry_seconds: float = Field(0.5, gt=0)
    """How often a Redis that is away is tried again."""
    cache_bytes: int = Field(64 * 2**20, ge=0)
    """What a server remembers of the histories it saw last, for when Redis is away."""
    write_records: int = Field(4096, ge=1)
    """Most stream records that go into Redis together."""
    poll_seconds: float = Field(0.01, gt=0)
    """How often the writer looks into a stream that was at its end."""

    @model_validator(mode="after")
    def _whole(self) -> "RedisSettings":
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together: give both or neither")
        return self

    @property
    def address(self) -> str:
        """Where Redis is: the environment's url, which may hold a password, or else the file's.

        Raises SettingsError, without the url: whatever is wrong with it, it may hold a secret.
        """
        said = os.environ.get(URL)
        address, name = (said, URL) if said else (self.url, "setting redis.url")
        parts = urlsplit(address)
        if parts.scheme not in _SCHEMES:
            schemes = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
            raise SettingsError(f"{name} begins with {parts.scheme}:; give one of {schemes}")
        if not said and (parts.password or "password" in parse_qs(parts.query)):
            raise SettingsError(f"{name} holds a password; put it into {PASSWORD}")
        return address

    @property
    def tls(self) -> dict[str, Any]:
        """What a connection needs for TLS. Raises SettingsError if the url asks for none."""
        files = {"ca": self.ca_file, "cert": self.cert_file, "key": self.key_file}
        given = {name: path for name, path in files.items() if path is not None}
        if not self.address.startswith("rediss://"):
            if given:
                raise SettingsError(
                    f"setting redis.{next(iter(given))}_file needs an url of rediss://, for TLS"
                )
            return {}
        for name, path in given.items():
            if not path.is_file():
                raise SettingsError(f"setting redis.{name}_file = {path}: no such file")
        names = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}
        return {names[name]: str(path) for name, path in given.items()}


def redis_of(settings: Settings) -> RedisSettings | None:
    """The section; None without it and without an address in the environment: then nothing goes to
    Redis."""
    if not settings.has("redis") and not os.environ.get(URL):
        return None
    found = settings.section("redis", RedisSettings)
    _ = found.address, found.tls  # what is wrong there is wrong at the start
    return found
