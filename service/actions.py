"""What travels on the streams: actions and impressions, and the 64-bit keys of their ids.

Evolution follows msgspec's rules: a new field has a default, no field is renamed or retyped, and
readers ignore fields they do not know.
"""

import math
from functools import lru_cache
from typing import Annotated

import msgspec
import xxhash

Id = int | str

MAX_ID_BYTES = 256
MAX_LIST = 4096
RESERVED_KEY = -(2**63)
"""The one 64-bit value that no id maps to: the key index marks empty places with it."""


class Action(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Something a user did to an item. `at` is event time in seconds since the epoch."""

    user: Id
    item: Id
    action: str
    at: float
    v: int = 1
    id: str | None = None
    request: str | None = None
    value: float | None = None
    context: dict[str, str | int | float | bool | None] | None = None


class Impression(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A list that was shown. `history` is how many events of the user its scoring saw,
    `propensities` the chance of each item to be in the list; without them nothing was left to it.
    """

    request: str
    user: Id
    at: float
    items: list[Id]
    v: int = 1
    positions: list[int] | None = None
    propensities: list[float] | None = None
    history: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None
    version: int | None = None


class Rejected(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What could not be read, where it stood, and why."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str = ""
    payload: str = ""


def key_of(identifier: Id) -> int:
    """Map an id to its signed 64-bit key: integers exactly, strings by XXH3-64.

    Two of n strings share a key with probability about n^2 / 2^65. Raises ValueError for an
    integer outside 64 bits or equal to the reserved key.
    """
    if isinstance(identifier, int):
        if not RESERVED_KEY < identifier < 2**63:
            raise ValueError(f"id {identifier} is outside -2^63+1 .. 2^63-1; send it as a string")
        return identifier
    digest = xxhash.xxh3_64_intdigest(identifier.encode())
    key = digest - 2**64 if digest >= 2**63 else digest
    return key if key != RESERVED_KEY else key_of(identifier + "\0")


def stream_key(identifier: Id) -> bytes:
    """The key of a record on a topic that is keyed by this id: its text."""
    return str(identifier).encode()


def partition_of(user: Id, partitions: int) -> int:
    """The partition that holds all events of `user`, so that they stay in order.

    It is the one that Kafka's own clients choose for the key `stream_key(user)`, so a producer in
    any language may write to the same topic.
    """
    return partition_of_key(stream_key(user), partitions)


def partition_of_key(key: bytes, partitions: int) -> int:
    """The partition of a record's key, as Kafka's default partitioner chooses it."""
    return 0 if partitions == 1 else (murmur2(key) & 0x7FFFFFFF) % partitions


@lru_cache(maxsize=2**17)
def murmur2(data: bytes) -> int:
    """MurmurHash2 with the seed that Kafka's default partitioner uses, as an unsigned integer."""
    mixed = _MURMUR_SEED ^ len(data)
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * _MURMUR_FACTOR & _MASK
        word = (word ^ word >> 24) * _MURMUR_FACTOR & _MASK
        mixed = mixed * _MURMUR_FACTOR & _MASK ^ word
    if whole < len(data):
        mixed = (mixed ^ int.from_bytes(data[whole:], "little")) * _MURMUR_FACTOR & _MASK
    mixed = (mixed ^ mixed >> 13) * _MURMUR_FACTOR & _MASK
    return mixed ^ mixed >> 15


_MURMUR_SEED = 0x9747B28C
_MURMUR_FACTOR = 0x5BD1E995
_MASK = 0xFFFFFFFF


def id_problem(identifier: Id) -> str | None:
    """Why an id cannot be used, or None."""
    if isinstance(identifier, int):
        return None if RESERVED_KEY < identifier < 2**63 else "is outside 64 bits"
    if not identifier:
        return "is empty"
    if len(identifier) > MAX_ID_BYTES:
        return f"is longer than {MAX_ID_BYTES} bytes"
    try:
        size = len(identifier.encode())
    except UnicodeEncodeError:
        return "holds a lone surrogate, which is no character"
    return f"is longer than {MAX_ID_BYTES} bytes" if size > MAX_ID_BYTES else None


def time_problem(at: float) -> str | None:
    """Why an event time cannot be used, or None."""
    if not math.isfinite(at):
        return "is not a finite number"
    if not 0 <= at < 2**40:
        return "is not in seconds since the epoch (0 .. 2^40)"
    return None
