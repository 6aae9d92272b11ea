"""The synthetic stream: records of items from a few categories, ever more items to draw from.

Source: Actions Speak Louder than Words (arXiv 2402.17152), appendix C, from its words: neither its
code nor its data are public. What the words leave open, and what is chosen here: docs/drift.md.

Shapes: N records, L items of a record, C categories, I items, P categories a record may have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]
AVAILABLE_FIRST = 0.4
"""Share of all items that the first record may draw."""
MOST_CATEGORIES = 5
ALPHA = (1.0, 500.0)
"""Bounds of a record's concentration."""
NONE = -1
CHUNK = 4096
"""Records drawn at a time: what they are drawn with takes a few MB."""


@dataclass(frozen=True)
class Size:
    """How much of the stream there is."""

    records: int
    items: int
    categories: int
    length: int = 128

    def available(self, record: int) -> int:
        """Items that a record may draw: those numbered below this."""
        share = AVAILABLE_FIRST + (1 - AVAILABLE_FIRST) * record / self.records
        return int(share * self.items)


PUBLISHED = Size(records=1_000_000, items=20_000, categories=100)


@dataclass(frozen=True, eq=False)
class Stream:
    """Records in order, and what they were drawn from, which no model sees."""

    size: Size
    item_NL: Ints
    category_I: Ints
    chosen_NP: Ints
    """The categories of a record, then NONE."""
    prior_NP: Floats
    """H: how much the record is drawn to each of them; sums to 1."""
    alpha_N: Floats


def stream(size: Size, seed: int) -> Stream:
    """Draw the stream. The same size and seed give the same stream.

    Raises ValueError when a category would have no item for the first record, or there are fewer
    categories than a record may have.
    """
    if size.categories < MOST_CATEGORIES:
        raise ValueError(f"{size.categories} categories: a record has up to {MOST_CATEGORIES}")
    random = np.random.default_rng((seed, 0))
    category_I = random.integers(size.categories, size=size.items).astype(np.int32)
    if len(np.unique(category_I[: size.available(0)])) < size.categories:
        raise ValueError(
            f"{size.items} items leave some of {size.categories} categories empty at the start: "
            "take more items or fewer categories"
        )
    made = Stream(
        size,
        np.empty((size.records, size.length), np.int32),
        category_I,
        np.full((size.records, MOST_CATEGORIES), NONE, np.int32),
        np.zeros((size.records, MOST_CATEGORIES)),
        np.empty(size.records),
    )
    for first in range(0, size.records, CHUNK):
        _add(made, slice(first, min(first + CHUNK, size.records)), random)
    return made


def _add(made: Stream, new: slice, random: np.random.Generator) -> None:
    """Draw some of the records."""
    count, size = new.stop - new.start, made.size
    parts_N = random.integers(1, MOST_CATEGORIES, size=count, endpoint=True)
    beyond_NP = np.arange(MOST_CATEGORIES) >= parts_N[:, None]
    order_NC = random.random((count, size.categories), np.float32).argsort(1)
    made.chosen_NP[new] = np.where(beyond_NP, NONE, order_NC[:, :MOST_CATEGORIES])
    mass_NP = np.where(beyond_NP, 0.0, random.exponential(size=beyond_NP.shape))
    made.prior_NP[new] = mass_NP / mass_NP.sum(1, keepdims=True)
    made.alpha_N[new] = random.uniform(*ALPHA, size=count)
    points_NL2 = random.random((count, size.length, 2))
    _draw(
        points_NL2, _available(size, new), *_by_category(made), made.chosen_NP[new],
        made.prior_NP[new], made.alpha_N[new], made.item_NL[new],
    )  # fmt: skip


def ceiling(made: Stream, first: int, best: int) -> float:
    """The share of items, from the second of a record on, that a list of `best` items holds at
    most: that of one who knows categories, prior and alpha, in records from `first` on."""
    kept = slice(first, made.size.records)
    share: float = _ceiling(
        best, _available(made.size, kept), *_by_category(made), made.chosen_NP[kept],
        made.prior_NP[kept], made.alpha_N[kept], made.category_I, made.item_NL[kept],
    )  # fmt: skip
    return share


def _available(size: Size, records: slice) -> Ints:
    return np.array([size.available(r) for r in range(records.start, records.stop)], np.int32)


def _by_category(made: Stream) -> tuple[Ints, Ints]:
    """Items category by category, rising, and where each category starts."""
    item_I = np.argsort(made.category_I, kind="stable").astype(np.int32)
    start = np.searchsorted(made.category_I[item_I], np.arange(made.size.categories + 1))
    return item_I, start.astype(np.int32)


@njit(cache=True)
def _draw(
    points_NL2: Any, available_N: Any, item_I: Any, start_C: Any, chosen_NP: Any, prior_NP: Any,
    alpha_N: Any, item_NL: Any,
) -> None:  # fmt: skip
    """Fill item_NL. The two points in [0, 1) of each place choose category and item."""
    for r in range(len(item_NL)):
        mass_P = alpha_N[r] * prior_NP[r]
        for n in range(item_NL.shape[1]):
            p = _one_of(mass_P, points_NL2[r, n, 0] * (alpha_N[r] + n))
            mass_P[p] += 1.0
            start, held = _held(item_I, start_C, chosen_NP[r, p], available_N[r])
            item_NL[r, n] = item_I[start + int(points_NL2[r, n, 1] * held)]


@njit(cache=True)
def _ceiling(
    best: int, available_N: Any, item_I: Any, start_C: Any, chosen_NP: Any, prior_NP: Any,
    alpha_N: Any, category_I: Any, item_NL: Any,
) -> float:  # fmt: skip
    hits, places = 0.0, 0
    for r in range(len(item_NL)):
        parts = (chosen_NP[r] != NONE).sum()
        held_P = np.empty(parts)
        for p in range(parts):
            held_P[p] = _held(item_I, start_C, chosen_NP[r, p], available_N[r])[1]
        mass_P = alpha_N[r] * prior_NP[r, :parts]
        for n in range(item_NL.shape[1]):
            if n > 0:
                hits += _listed(mass_P / held_P, held_P, best) / (alpha_N[r] + n)
                places += 1
            for p in range(parts):
                mass_P[p] += chosen_NP[r, p] == category_I[item_NL[r, n]]
    return hits / places


@njit(cache=True)
def _listed(each_P: Any, held_P: Any, best: int) -> float:
    """What the likeliest `best` items weigh; all items of a category are alike."""
    total = 0.0
    for p in np.argsort(-each_P):
        taken = min(best, held_P[p])
        total += taken * each_P[p]
        best -= taken
    return total


@njit(cache=True)
def _held(item_I: Any, start_C: Any, category: int, available: int) -> Any:
    """Where a category's items start, and how many of them are available: those come first."""
    start = start_C[category]
    return start, np.searchsorted(item_I[start : start_C[category + 1]], available)


@njit(cache=True)
def _one_of(mass_P: Any, point: float) -> int:
    """Where a point in [0, sum) falls; never where there is no mass."""
    found = 0
    for p in range(len(mass_P)):
        if mass_P[p] > 0:
            found = p
            if point < mass_P[p]:
                break
            point -= mass_P[p]
    return found
