"""Chains: a state as a base, and deltas that each say what changed since the link before.

Both halves of a version are kept so. A link is one file; its header has its number, the version
that it belongs to, and its parent, the version whose state it changes (a base has none).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from service.errors import VersionError
from service.versions.manifest import Manifest
from service.versions.tensors import TensorFile, header

_FOLDER = re.compile(r"data/(\d{8,})-")


class Link(Protocol):
    """A part of a chain."""

    @property
    def number(self) -> int:
        """The version that it belongs to."""

    @property
    def parent(self) -> int | None:
        """The version that it changes; None for a base."""


def link_name(part: str, link: Link) -> str:
    """The name of a link's file inside its draft."""
    return f"{part}/{'base' if link.parent is None else 'delta'}.safetensors"


def link_header(part: str, link: Link, **facts: object) -> Mapping[str, Any]:
    """The metadata of a link's file."""
    kind = part if link.parent is None else f"{part}-delta"
    ends = {"number": link.number} | ({} if link.parent is None else {"parent": link.parent})
    return header(kind, **ends, **facts)


def link_ends(part: str, file: TensorFile, name: str, manifest: Manifest) -> tuple[int, int | None]:
    """Number and parent of a link's file. Raises VersionError naming it if it is no such link.

    Format 1 wrote no numbers and no deltas: a file belonged to the version that named it, and,
    where a later format has deltas after it, to the version whose draft wrote it.
    """
    kind = file.check(name, part, f"{part}-delta")
    if file.metadata["format"] == 1:
        if kind != part:
            raise VersionError(f"{name} is of kind {kind!r}, which format 1 has not")
        written = _FOLDER.match(name)
        return (manifest.number if manifest.format == 1 or not written else int(written[1])), None
    number = file.fact(name, "number", int)
    if kind == part:
        return number, None
    parent = file.fact(name, "parent", int)
    if not 0 <= parent < number:
        raise VersionError(f"{name} takes version {parent} to {number}, which is not after it")
    return number, parent


def check_chain(links: Sequence[Link], names: Sequence[str]) -> None:
    """Raise VersionError with a link's name unless these are a base and deltas in order."""
    if not links:
        raise VersionError("a chain of no links has no state; it begins with a base")
    if links[0].parent is not None:
        raise VersionError(
            f"{names[0]} changes version {links[0].parent}, and no base comes before it"
        )
    for name, before, link in zip(names[1:], links, links[1:], strict=False):
        if link.parent == before.number:
            continue
        if link.number == before.number:
            raise VersionError(f"{name}: version {link.number} stands twice in the chain")
        if link.parent is None:
            raise VersionError(f"{name} is a base, and stands after version {before.number}")
        problem = "deltas between are missing" if link.parent > before.number else "out of order"
        raise VersionError(
            f"{name} changes version {link.parent} and stands after version {before.number}: "
            f"{problem}"
        )


def check_end(links: Sequence[Link], names: Sequence[str], manifest: Manifest) -> None:
    """Raise VersionError unless a checked chain ends with the version that names it."""
    if links[-1].number != manifest.number:
        raise VersionError(
            f"{names[-1]}, the last of its chain, is of version {links[-1].number}, not of "
            f"{manifest.number}"
        )
