"""Operators' decisions: one append-only log in total order, beside the versions it speaks of.

Each is a sealed JSON file `decisions/00000007.json`, created only if absent. Its number is its
*generation*; generations begin at 1 and have no gaps. A release that meets a kind of decision it
does not know refuses it: obeying half of a log would be to make one's own.
"""

import time
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import msgspec

from service.errors import VersionError
from service.versions.formats import FORMAT, check_format
from service.versions.sealing import check_seal, sealed

Count = Annotated[int, msgspec.Meta(ge=0)]


class Pin(msgspec.Struct, frozen=True, tag_field="kind", tag="pin"):
    """Servers serve this version, whatever comes; None: the newest one again."""

    version: Count | None
    at: float = msgspec.field(default_factory=time.time)


class Branch(msgspec.Struct, frozen=True, tag_field="kind", tag="branch"):
    """Training goes on from this version; later ones made without knowing of it are abandoned."""

    version: Count
    at: float = msgspec.field(default_factory=time.time)


class Release(msgspec.Struct, frozen=True, tag_field="kind", tag="release"):
    """Servers may have this version although it is held."""

    version: Count
    at: float = msgspec.field(default_factory=time.time)


class Erase(msgspec.Struct, frozen=True, tag_field="kind", tag="erase"):
    """What the user of this key did up to `before_ms` (event time) never happened."""

    user: int
    before_ms: int
    at: float = msgspec.field(default_factory=time.time)


Decision = Pin | Branch | Release | Erase
"""`at` is wall time in seconds since the epoch, for people."""

KINDS = ("pin", "branch", "release", "erase")


@dataclass(frozen=True)
class Decisions:
    """What all decisions up to a generation come to."""

    generation: int = 0
    pinned: int | None = None
    pin_generation: int = 0
    """Of the newest pin or unpin."""
    branches: tuple[tuple[int, int], ...] = ()
    """Generation of each branch and the version it goes on from."""
    released: frozenset[int] = frozenset()
    erased: dict[int, int] = field(default_factory=dict)
    """User key to `before_ms`; of several decisions about a user the one that goes farthest."""
    erase_generation: int = 0
    """Of the newest erasure."""

    def followed_by(self, *later: Decision) -> "Decisions":
        """These, and the next ones."""
        now, erased = self, dict(self.erased)
        for decision in later:
            generation = now.generation + 1
            change: dict[str, Any]
            match decision:
                case Pin(version):
                    change = {"pinned": version, "pin_generation": generation}
                case Branch(version):
                    change = {"branches": (*now.branches, (generation, version))}
                case Release(version):
                    change = {"released": now.released | {version}}
                case Erase(user, before_ms):
                    erased[user] = max(before_ms, erased.get(user, before_ms))
                    change = {"erase_generation": generation}
            now = replace(now, generation=generation, **change)
        return replace(now, erased=erased)

    def abandoned(self, number: int, known: int) -> bool:
        """Whether a branch left a version behind that was made with `known` decisions."""
        return any(number > version and known < at for at, version in self.branches)


class _Head(msgspec.Struct):
    format: int
    decision: dict[str, Any]


class _File(msgspec.Struct, frozen=True):
    """`writer` is one writer's own: equal decisions at the same moment are two decisions."""

    generation: int
    writer: str
    decision: Decision
    format: int = FORMAT


# Made once, here: two threads that decode a type for the first time at once can crash msgspec.
_decode_head = msgspec.json.Decoder(_Head).decode
_decode_file = msgspec.json.Decoder(_File).decode


def decision_name(generation: int) -> str:
    """Where a decision stands."""
    return f"decisions/{generation:08d}.json"


def encode(generation: int, writer: str, decision: Decision) -> bytes:
    """The content of a decision's file."""
    return sealed(_File(generation, writer, decision))


def decode(generation: int, data: bytes) -> Decision:
    """Read and check a decision's file. Raises VersionError naming it and what is wrong."""
    where = decision_name(generation)
    try:
        head = _decode_head(data)
        check_format(where, head.format)
        check_seal(where, data)
        kind = head.decision.get("kind")
        if kind not in KINDS:
            raise VersionError(
                f"{where} is a decision of the kind {kind!r}, this release knows "
                f"{', '.join(KINDS)}: use the release that decided it, or a later one"
            )
        file = _decode_file(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise VersionError(
            f"{where} is not a decision: {error}; restore it from a backup"
        ) from None
    if file.generation != generation:
        raise VersionError(f"{where} is decision {file.generation}; someone renamed or copied it")
    return file.decision
