"""Records dealt to the partitions of their keys."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from service.actions import partition_of_key
from service.errors import StreamError

T = TypeVar("T")


class Share(NamedTuple):
    """What goes to one partition, in the order in which it was given."""

    payloads: list[bytes]
    keys: list[bytes]
    append_ms: int | list[int] | None


def dealt(
    payloads: Sequence[bytes],
    keys: Sequence[bytes],
    append_ms: int | Sequence[int] | None,
    partitions: int,
) -> dict[int, Share]:
    """The share of each partition that gets one."""
    if not isinstance(append_ms, int | None):
        column("append times", append_ms, len(payloads))
    column("keys", keys, len(payloads))
    places: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(partition_of_key(key, partitions), []).append(place)
    return {
        partition: Share(
            [payloads[place] for place in chosen],
            [keys[place] for place in chosen],
            append_ms
            if isinstance(append_ms, int | None)
            else [append_ms[place] for place in chosen],
        )
        for partition, chosen in places.items()
    }


def column(what: str, given: Sequence[T] | None, count: int) -> Sequence[T | None]:
    """One value per payload. Raises StreamError if there are more or fewer."""
    if given is None:
        return [None] * count
    if len(given) != count:
        raise StreamError(f"{len(given)} {what} were given for {count} payloads")
    return given
