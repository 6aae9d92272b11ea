"""Answers of the server as they come: JSON objects, with types for what is in them.

docs/api.md says what each field means.
"""

from typing import Any, NotRequired, TypedDict

from service.actions import Id


class WeighedEvent(TypedDict):
    """An event of the user's history and what it weighed for an item."""

    item: Id | None
    action: str | None
    at: float
    share: float


class ItemExplanation(TypedDict):
    """Where the score of one item comes from."""

    logits: dict[str, float] | None
    events: list[WeighedEvent] | None
    explored: NotRequired[float]


class Explanation(TypedDict):
    """What a whole answer rests on."""

    version: int
    reading: str
    history: int
    visible: int
    rows: str
    dense: str


class ScoredItem(TypedDict):
    """One item with everything the model says about it."""

    item: Id
    score: float
    next_item: float
    actions: dict[str, float] | None
    explanation: NotRequired[ItemExplanation]
    propensity: NotRequired[float]


class RankAnswer(TypedDict):
    """Items, best first, and the one version that scored them all."""

    request_id: str
    version: int
    version_age_seconds: float
    took_ms: float
    left_out: int
    items: list[ScoredItem]
    explanation: NotRequired[Explanation]


class RejectedRecord(TypedDict):
    """One record of a batch that went nowhere, and why."""

    index: int
    field: str
    reason: str


class AppendAnswer(TypedDict):
    """What became of a batch; the accepted records are durable in the log."""

    accepted: int
    rejected: list[RejectedRecord]


class ServedVersion(TypedDict):
    """The version that answers."""

    number: int
    created_at: float
    age_seconds: float
    watermark: float


class NamedVersion(TypedDict):
    """A version that is held, or that could not be loaded, and why."""

    number: int
    reason: str


class VersionsAnswer(TypedDict):
    """The versions that the server knows, and what was decided about them."""

    served: ServedVersion | None
    pinned: int | None
    generation: int
    available: list[int]
    held: list[NamedVersion]
    refused: list[NamedVersion]
    compute: dict[str, Any]


class PinAnswer(TypedDict):
    """A decision about which version servers keep to."""

    generation: int
    pinned: int | None
