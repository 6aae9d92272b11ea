"""Small JSON files that decide much: their last member is the SHA-256 of all bytes before it."""

import hashlib

import msgspec

from service.errors import VersionError

_SEAL = b',\n "sha256": "'


def sealed(content: msgspec.Struct) -> bytes:
    """An object as indented JSON with its seal."""
    return _sealed(msgspec.json.format(msgspec.json.encode(content), indent=1).removesuffix(b"\n}"))


def check_seal(where: str, data: bytes) -> None:
    """Raise VersionError naming `where` unless the seal is the content's."""
    body, _, _ = data.rpartition(_SEAL)
    if data != _sealed(body):
        raise VersionError(f"{where} was altered: its last member is not the SHA-256 of the rest")


def _sealed(body: bytes) -> bytes:
    return body + _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'
