"""Loops over the catalogue: which places may be returned, and which of them have no row.

Shapes: P places, S sets of categories, F features.
"""

from typing import Any

from numba import njit

NOBODY = -1
"""The set of a place without an item."""


@njit(cache=True, nogil=True)
def shown_places(
    until_ms: Any, sets: Any, wanted_S: Any, features: Any, values_F: Any, at_ms: Any, shown: Any
) -> None:
    """1 at every place that may be returned at a time, has a wanted set and all wanted features
    (values_F; 0: any)."""
    width = len(values_F)
    for p in range(len(shown)):
        shown[p] = sets[p] != NOBODY and until_ms[p] > at_ms and wanted_S[sets[p]]
        for f in range(width):
            if values_F[f] and features[p * width + f] != values_F[f]:
                shown[p] = 0


@njit(cache=True, nogil=True)
def count_unseen(able: Any, row: Any, sets: Any, held: Any) -> None:
    """Adds how many items of each set are able and have no row."""
    for p in range(len(able)):
        if able[p] and row[p] == 0 and sets[p] != NOBODY:
            held[sets[p]] += 1


@njit(cache=True, nogil=True)
def newest_unseen(able: Any, row: Any, sets: Any, quota: Any, found: Any) -> None:
    """The last places that are able and have no row, as many of each set as its quota, the last one
    first."""
    used = 0
    for back in range(len(able)):
        if used == len(found):
            return
        p = len(able) - 1 - back
        if able[p] and row[p] == 0 and sets[p] != NOBODY and quota[sets[p]] > 0:
            quota[sets[p]] -= 1
            found[used] = p
            used += 1
