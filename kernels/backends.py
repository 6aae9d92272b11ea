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


def only_cpu(backend: str, device: str) -> None:
    """Raises ValueError unless the device is the CPU, for a backend that knows no other."""
    if device != "cpu":
        raise ValueError(
            f"backend {backend!r} runs on the CPU alone, not on {device!r}; use backend 'triton'"
        )
