"""Which rows may be found: what is known of their items, and what is wanted of them.

Shapes: R rows of which something may be known, S sets of categories, F features.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


class Allowed(NamedTuple):
    """May be found: an item whose time is not over, of a wanted set and with all wanted features,
    and, if `unknown`, one of which nothing is known."""

    set_R: Ints
    """From 1 on; 0 where nothing is known of a row's item, as for rows beyond the end."""
    until_ms_R: Longs
    features: Longs
    """Of R rows, one after another."""
    wanted_S: npt.NDArray[np.bool_]
    value_F: Longs
    """0: any."""
    at_ms: int
    unknown: bool


EVERYTHING = Allowed(
    np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.bool_),
    np.zeros(0, np.int64), 0, True,
)  # fmt: skip


@njit(cache=True, nogil=True)
def allowed_rows(allowed: Any, rows: Any, out: Any) -> None:
    """Whether each of some rows may be found."""
    set_R, until_ms_R, features, wanted_S, value_F, at_ms, unknown = allowed
    width = len(value_F)
    for i in range(len(rows)):
        r = np.uint64(rows[i])
        if r >= len(set_R) or set_R[r] == 0:
            out[i] = unknown
            continue
        out[i] = wanted_S[set_R[r] - 1] and until_ms_R[r] > at_ms
        for f in range(width):
            if value_F[f] and features[r * np.uint64(width) + np.uint64(f)] != value_F[f]:
                out[i] = False


@njit(cache=True, nogil=True)
def rows_allowed(allowed: Any, first: Any, end: Any, out: Any) -> Any:
    """Write those of the rows first..end-1 that may be found, in order; how many they are.

    As `allowed_rows`, and faster where few are: of most rows the set alone is looked at.
    """
    set_R, _, _, wanted_S, _, _, unknown = allowed
    found, one = 0, np.empty(1, np.bool_)
    for r in range(first, min(end, len(set_R))):
        known = set_R[r]
        out[found] = r
        found += unknown if known == 0 else wanted_S[known - 1]
    kept = 0
    for i in range(found):
        allowed_rows(allowed, out[i : i + 1], one)
        out[kept] = out[i]
        kept += one[0]
    for r in range(max(first, len(set_R)), end):
        out[kept] = r
        kept += unknown
    return kept
