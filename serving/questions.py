"""What a request asks of the engine, and what it is told: values that travel between processes.

Whoever takes requests in needs neither torch nor a table to ask. Shapes: C candidates, E excluded
items, N returned items.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from service.actions import Id
from service.draws import Draw
from service.items import Scalar

Keys = npt.NDArray[np.int64]
Said = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """Which items a request is about: any of some categories, none of others, with features."""

    categories: Sequence[str] = ()
    without: Sequence[str] = ()
    features: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def needs_record(self) -> bool:
        """Whether an item of which nothing is known cannot be meant."""
        return bool(self.categories or self.features)


ANY = Wanted()


@dataclass(frozen=True)
class Rank:
    """Put the given candidates in order. Ties keep the order in which they were sent."""

    user_key: int
    items: Sequence[Id]
    """Names of the candidates, as the answer is to have them; nothing else is done with them."""
    key_C: Keys
    at_ms: int
    n: int | None
    explain: bool = False
    draw: Draw | None = None


@dataclass(frozen=True)
class Recommend:
    """The best n items of the catalogue for a user."""

    user_key: int
    n: int
    exclude_seen: bool
    exclude_key_E: Keys
    at_ms: int
    wanted: Wanted = ANY
    explain: bool = False
    request: str = ""
    page: int = 0
    diversity: float = 0.0
    draw: Draw | None = None


Question = Rank | Recommend


@dataclass(frozen=True)
class Version:
    """Which version answered."""

    number: int
    created_at: float
    """Seconds since the epoch, by the trainer's clock."""

    def age_seconds(self, now: float) -> float:
        """Time since the version was created, by the clocks of trainer and server."""
        return max(0.0, now - self.created_at)


@dataclass(frozen=True)
class Explained:
    """Of one answer: what holds for all its items, and what for each."""

    whole: Said
    items: Sequence[Said]

    def with_moves(self, moved_N: Sequence[float]) -> "Explained":
        """And what a draw has added to each item's score."""
        items = zip(self.items, moved_N, strict=True)
        return replace(self, items=[{**one, "explored": moved} for one, moved in items])


@dataclass(frozen=True)
class Ranking:
    """The best items, sorted, with every head's value, and what they were scored with."""

    served: Version
    history: int
    """How many events of the user the scoring saw."""
    items: Sequence[Id]
    score_N: list[float]
    next_item_N: list[float]
    actions: dict[str, list[float]] | None
    """N probabilities per action type."""
    left_out: int = 0
    """Candidates that may not be shown at the time of the request."""
    explained: Explained | None = None
    propensity_N: list[float] | None = None
    """Chance of each item to be in the list; None where nothing was left to chance."""


class Row(msgspec.Struct, gc=False, omit_defaults=True):
    """One item of an answer."""

    item: Id
    score: float
    next_item: float
    actions: dict[str, float] | None
    explanation: Said | None = None
    propensity: float | None = None


def answer(ranking: Ranking, request_id: str, took_seconds: float) -> Said:
    """The ranking as the body of an answer."""
    why = ranking.explained
    rows = map(
        Row, ranking.items, ranking.score_N, ranking.next_item_N, _heads(ranking),
        repeat(None) if why is None else why.items, ranking.propensity_N or repeat(None),
    )  # fmt: skip
    whole: Said = {} if why is None else {"explanation": why.whole}
    return whole | {
        "request_id": request_id,
        "version": ranking.served.number,
        "version_age_seconds": round(ranking.served.age_seconds(time.time()), 3),
        "took_ms": round(took_seconds * 1000, 3),
        "left_out": ranking.left_out,
        "items": list(rows),
    }


def _heads(ranking: Ranking) -> Sequence[dict[str, float] | None]:
    if ranking.actions is None:
        return [None] * len(ranking.items)
    rows: list[dict[str, float]] = [{} for _ in ranking.items]
    for name, value_N in ranking.actions.items():
        for row, value in zip(rows, value_N, strict=True):
            row[name] = value
    return rows
