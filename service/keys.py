"""API keys: random tokens, of which the key file keeps salted hashes only.

A token is `fk_ID_SECRET`: eight hex digits that name its entry, and 256 random bits in hex. Nobody
can try out 2^256 secrets, so a fast hash is as good as a slow one here; it costs a request some
microseconds where a password hash would cost a tenth of a second.
"""

import hashlib
import hmac
import secrets
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import AwareDatetime, Field, StringConstraints, ValidationError

from service.errors import SettingsError
from service.settings import Section

Scope = Literal["read", "write", "explain", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""read: rankings and versions; write: actions, impressions, items; explain: why something was
ranked; admin: which version servers keep to."""

PREFIX = "fk"
SECRET_BYTES = 32
SALT_BYTES = 16
LONGEST_TOKEN = 200

KeyId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")]
KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_Hex16 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
_Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Rate = Annotated[float, Field(gt=0)]


class KeyEntry(Section):
    """What the key file says of one key."""

    name: KeyName
    """What it is for; several keys may share a name while one replaces the other."""
    scopes: tuple[Scope, ...] = Field(min_length=1)
    salt: _Hex16
    hash: _Hex32
    """HMAC-SHA256 of the secret under the salt."""
    created: AwareDatetime
    expires: AwareDatetime | None = None
    rankings_per_second: _Rate | None = None
    """Instead of `limits.rankings_per_second`."""
    records_per_second: _Rate | None = None
    """Instead of `limits.records_per_second`."""

    def opens_with(self, secret: str) -> bool:
        """Whether this is the secret; takes as long whichever characters differ."""
        return hmac.compare_digest(_hash(self.salt, secret), bytes.fromhex(self.hash))

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and now >= self.expires


class KeyFile(Section):
    """The whole file: a table per key, named by its id."""

    keys: dict[KeyId, KeyEntry] = Field(default_factory=dict)


class NewKey(NamedTuple):
    """A key that was just made. The token is shown once and kept nowhere."""

    id: str
    token: str
    entry: KeyEntry


def new_key(
    name: str,
    scopes: tuple[Scope, ...],
    expires: datetime | None = None,
    rankings_per_second: float | None = None,
    records_per_second: float | None = None,
) -> NewKey:
    """A random token and its entry. Raises SettingsError for a name that is no name."""
    key_id, secret = secrets.token_hex(4), secrets.token_hex(SECRET_BYTES)
    salt = secrets.token_hex(SALT_BYTES)
    try:
        entry = KeyEntry(
            name=name,
            scopes=tuple(scope for scope in SCOPES if scope in scopes),
            salt=salt,
            hash=_hash(salt, secret).hex(),
            created=datetime.now(UTC).replace(microsecond=0),
            expires=expires,
            rankings_per_second=rankings_per_second,
            records_per_second=records_per_second,
        )
    except ValidationError as error:
        raise SettingsError(_problem("key", error)) from None
    return NewKey(key_id, f"{PREFIX}_{key_id}_{secret}", entry)


def parts_of(token: str) -> tuple[str, str]:
    """The id and the secret of a token; of what is no token, an id that no key has."""
    prefix, _, rest = token[:LONGEST_TOKEN].partition("_")
    key_id, _, secret = rest.partition("_")
    return (key_id, secret) if prefix == PREFIX else ("", token)


def read_keys(path: Path) -> dict[str, KeyEntry]:
    """The entries of a key file by id. Raises SettingsError that names the place, never a value."""
    try:
        return dict(KeyFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).keys)
    except FileNotFoundError:
        raise SettingsError(
            f"key file {path} does not exist; `freshet keys new --file {path}` makes it"
        ) from None
    except OSError as error:
        raise SettingsError(f"key file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"key file {path} is not TOML: {error}") from None
    except ValidationError as error:
        raise SettingsError(_problem(f"key file {path}", error)) from None


def _hash(salt: str, secret: str) -> bytes:
    return hmac.digest(bytes.fromhex(salt), secret.encode(), hashlib.sha256)


def _problem(what: str, error: ValidationError) -> str:
    # Not the input: a token that somebody pasted in must not travel into a log.
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{what}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
