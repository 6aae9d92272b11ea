"""Small JSON files that decide much: their last member is the SHA-256 of all bytes before it.

That detects damage. With a key in FRESHET_SIGNING_KEY the member before it is an HMAC-SHA256 of
everything before: then only who has the key can make a version or a decision that is obeyed.
"""

import hashlib
import hmac
import os

import msgspec

from service.errors import SettingsError, VersionError

SIGNING_KEY = "FRESHET_SIGNING_KEY"
"""Environment variable of every process that writes or reads versions: one secret, or several with
spaces between them: the first one signs, each of them is accepted."""
LEAST_KEY = 32

_SIGNATURE = b',\n "hmac_sha256": "'
_SEAL = b',\n "sha256": "'


def sealed(content: msgspec.Struct) -> bytes:
    """An object as indented JSON with its seal, signed if there is a key."""
    body = msgspec.json.format(msgspec.json.encode(content), indent=1).removesuffix(b"\n}")
    return _sealed(_signed(body, keys[0]) if (keys := signing_keys()) else body)


def check_seal(where: str, data: bytes) -> None:
    """Raise VersionError naming `where` unless the seal is the content's, and so the signature."""
    body, _, _ = data.rpartition(_SEAL)
    if data != _sealed(body):
        raise VersionError(f"{where} was altered: its last member is not the SHA-256 of the rest")
    if keys := signing_keys():
        _check_signature(where, body, keys)


def signing_keys() -> list[bytes]:
    """The keys of this process. Raises SettingsError for one that could be guessed."""
    keys = os.environ.get(SIGNING_KEY, "").split()
    if any(len(key) < LEAST_KEY for key in keys):
        raise SettingsError(
            f"{SIGNING_KEY} holds a key of fewer than {LEAST_KEY} characters; make one with "
            "`openssl rand -hex 32`"
        )
    return [key.encode() for key in keys]


def _check_signature(where: str, body: bytes, keys: list[bytes]) -> None:
    content, mark, _ = body.rpartition(_SIGNATURE)
    if not mark:
        raise VersionError(
            f"{where} has no signature and {SIGNING_KEY} is set: its writer had no key, or it "
            "is older than the key"
        )
    if not any(hmac.compare_digest(body, _signed(content, key)) for key in keys):
        raise VersionError(
            f"{where} has a signature of another key than those in {SIGNING_KEY}, or is forged"
        )


def _signed(body: bytes, key: bytes) -> bytes:
    return body + _SIGNATURE + hmac.digest(key, body, "sha256").hex().encode() + b'"'


def _sealed(body: bytes) -> bytes:
    return body + _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'
