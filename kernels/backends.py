"""Choice of an operation's backend by name."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def pick(backend: str, known: Mapping[str, T]) -> T:
    """The backend of that name. Raises ValueError that lists the known ones."""
    try:
        return known[backend]
    except KeyError:
        raise ValueError(f"backend {backend!r} is unknown; known are {', '.join(known)}") from None
