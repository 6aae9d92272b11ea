"""What is sent: records and options of requests, as the JSON objects that they become.

docs/api.md says what each field means; where one is left out the server fills it in.
"""

import secrets
from collections import Counter
from collections.abc import Sequence
from typing import NotRequired, TypedDict

from service.actions import Id
from service.items import Scalar

REMEMBERED_IDS = 64
"""So many ids of a user's latest actions are known; a repeat of one of them counts once."""


class PostedAction(TypedDict):
    """Something a user did to an item."""

    user: Id
    item: Id
    action: str
    at: NotRequired[float | None]
    id: NotRequired[str | None]
    request: NotRequired[str | None]
    value: NotRequired[float | None]
    context: NotRequired[dict[str, Scalar | None] | None]
    v: NotRequired[int]


class PostedImpression(TypedDict):
    """A list that was really shown."""

    request: str
    user: Id
    items: Sequence[Id]
    at: NotRequired[float | None]
    positions: NotRequired[Sequence[int] | None]
    propensities: NotRequired[Sequence[float] | None]
    history: NotRequired[int | None]
    version: NotRequired[int | None]
    v: NotRequired[int]


class PostedItem(TypedDict):
    """What is known of an item; what an earlier record said of it is forgotten."""

    item: Id
    at: NotRequired[float | None]
    categories: NotRequired[Sequence[str]]
    hidden: NotRequired[bool]
    expires_at: NotRequired[float | None]
    features: NotRequired[dict[str, Scalar]]
    deleted: NotRequired[bool]
    v: NotRequired[int]


class RankOptions(TypedDict, total=False):
    """What may be said beside user and candidates."""

    at: float | None
    n: int | None
    explore: float | None
    request: str | None
    context: dict[str, Scalar | None] | None


class RecommendOptions(TypedDict, total=False):
    """What may be said beside user and n."""

    page: int
    diversity: float
    explore: float | None
    exclude_seen: bool
    exclude: Sequence[Id]
    categories: Sequence[str]
    exclude_categories: Sequence[str]
    features: dict[str, Scalar]
    at: float | None
    request: str | None
    context: dict[str, Scalar | None] | None


def with_ids(actions: Sequence[PostedAction]) -> list[PostedAction]:
    """The actions, those without an id under a random one: a repeat of them counts once."""
    return [
        one if one.get("id") is not None else {**one, "id": f"c-{secrets.token_hex(8)}"}
        for one in actions
    ]


def counts_once(actions: Sequence[PostedAction]) -> bool:
    """Whether a repeat of these, all with ids, is recognized as one: no user has more than ids are
    remembered of them."""
    counts = Counter(str(one.get("user")) for one in actions)
    return max(counts.values(), default=0) <= REMEMBERED_IDS
