"""What is computed of a batch's layout once, for all layers of a model."""

import weakref
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_KEPT: dict[tuple[object, ...], object] = {}


def kept(purpose: object, owners: tuple[object, ...], make: Callable[[], T]) -> T:
    """What `make` gave for this purpose and these very objects, for as long as all of them live.

    The layers of a model pass the same objects; what they hold must not change.
    """
    key = (purpose, *map(id, owners))
    if key not in _KEPT:
        _KEPT[key] = make()
        for owner in owners:
            weakref.finalize(owner, _KEPT.pop, key, None)
    made: T = _KEPT[key]  # type: ignore[assignment]
    return made
