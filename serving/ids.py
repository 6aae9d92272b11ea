"""Ids of a request as the 64-bit keys of the tables."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.actions import MAX_ID_BYTES, Id, id_problem, key_of
from serving.problems import invalid_field

LONGEST_CHARACTER_BYTES = 4


def keys_of(field: str, ids: Sequence[Id]) -> NDArray[np.int64]:
    """int64 keys of `ids`, in order. Raises Problem 422 for an id of too many bytes."""
    for place, one in enumerate(ids):
        # The message classes count characters; only long strings can have too many bytes.
        if type(one) is str and len(one) * LONGEST_CHARACTER_BYTES > MAX_ID_BYTES:
            _require_valid(f"{field}[{place}]", one)
    return np.fromiter(map(key_of, ids), np.int64, len(ids))


def user_key(user: Id) -> int:
    """The key of `user`. Raises Problem 422 for an id of too many bytes."""
    _require_valid("user", user)
    return key_of(user)


def _require_valid(field: str, one: Id) -> None:
    if problem := id_problem(one):
        raise invalid_field(field, problem)
