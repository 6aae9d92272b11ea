"""Bodies of requests and answers. The application's OpenAPI page is made from them.

Requests are validated by the classes of this file. Answers are encoded with msgspec because 512
scored items pass through; the classes describe them, and the tests hold every answer against them.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from service.actions import MAX_ID_BYTES, MAX_LIST, Id
from service.items import MAX_CATEGORY_BYTES

ItemOrUser = Annotated[
    Annotated[str, Field(strict=True, min_length=1, max_length=MAX_ID_BYTES)]
    | Annotated[int, Field(strict=True, gt=-(2**63), lt=2**63)],
    Field(union_mode="left_to_right"),
]
"""A string of 1 to 256 bytes, or a 64-bit integer: 7 and "7" are two ids."""

Seconds = Annotated[float, Field(strict=True, ge=0, lt=2**40)]
RequestId = Annotated[str, Field(strict=True, min_length=1, max_length=MAX_ID_BYTES)]
Scalar = str | int | float | bool | None
Count = Annotated[int, Field(strict=True, ge=1)]

USER = Field(description="Whom to rank for; an unknown user has an empty history", examples=["u1"])
AT = Field(
    None,
    description="Time of the request in seconds since the epoch; the server's clock if absent",
    examples=[1732096800.123],
)
REQUEST = Field(
    None,
    description="Request id under which the list is logged; made here if absent",
    examples=["r-5c1"],
)
EXPLORE = Field(
    None,
    strict=True,
    ge=0,
    le=1,
    description="How far scores are drawn from what they might be, in its standard deviations; "
    "absent: as the server is set",
    examples=[0.5],
)
CONTEXT = Field(
    None, description="Facts about the request; accepted, not used by the model yet", examples=[{}]
)
MAX_RECOMMENDED = 1000
MAX_PAGE = 9999
MAX_NAMED = 64
Category = Annotated[str, Field(strict=True, min_length=1, max_length=MAX_CATEGORY_BYTES)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class RankRequest(_Body):
    """Candidates to put in order for a user."""

    user: ItemOrUser = USER
    items: list[ItemOrUser] = Field(
        min_length=1,
        max_length=MAX_LIST,
        description="Candidates; a repeated one comes back as often as it was sent",
        examples=[["i9", "i4", "i7"]],
    )
    at: Seconds | None = AT
    n: Count | None = Field(None, description="Return the best n only", examples=[20])
    explore: float | None = EXPLORE
    request: RequestId | None = REQUEST
    context: dict[str, Scalar] | None = CONTEXT


class RecommendRequest(_Body):
    """A user who is to be shown n items of the whole catalogue."""

    user: ItemOrUser = USER
    n: Count = Field(10, le=MAX_RECOMMENDED, description="How many items", examples=[10])
    page: int = Field(
        0,
        strict=True,
        ge=0,
        le=MAX_PAGE,
        description="Which n items, 0 for the best ones",
        examples=[0],
    )
    diversity: float = Field(
        0.0, strict=True, ge=0, le=1, description="How much items are to differ", examples=[0.3]
    )
    explore: float | None = EXPLORE
    exclude_seen: bool = Field(
        True, strict=True, description="Leave out items of the user's history"
    )
    exclude: list[ItemOrUser] = Field(
        [], max_length=MAX_LIST, description="Items to leave out", examples=[["i9"]]
    )
    at: Seconds | None = AT
    request: RequestId | None = REQUEST
    context: dict[str, Scalar] | None = CONTEXT

    categories: list[Category] = Field(
        [], max_length=MAX_NAMED, description="Only items of any of these", examples=[["news"]]
    )
    exclude_categories: list[Category] = Field(
        [], max_length=MAX_NAMED, description="No items of any of these", examples=[["sport"]]
    )
    features: dict[str, str | int | float | bool] = Field(
        {},
        max_length=MAX_NAMED,
        description="Only items with all of these features, as far as the server filters by them",
        examples=[{"language": "en"}],
    )


class WeighedEvent(_Body):
    """An event of the user's history and what it weighed for an item."""

    item: Id | None = Field(description="Null for an item that has no row", examples=["i7"])
    action: str | None = Field(examples=["click"])
    at: float = Field(description="Seconds since the epoch", examples=[1732096800.1])
    share: float = Field(description="Of the weight of all visible events", examples=[0.31])


class ItemExplanation(_Body):
    """Where the score of one item comes from."""

    logits: dict[str, float] | None = Field(
        description="Of each action type, before calibration; null while there are no action heads",
        examples=[{"click": -1.2}],
    )
    events: list[WeighedEvent] | None = Field(
        description="Those that weighed most; null for layers of the published forms"
    )
    explored: float | None = Field(
        None, description="What was drawn for its score; only with exploration", examples=[-0.12]
    )


class Explanation(_Body):
    """What a whole answer rests on."""

    version: int = Field(examples=[42])
    reading: str = Field(
        description="Whether what was read of the history was kept (hit), extended by new events, "
        "or read anew",
        examples=["hit"],
    )
    history: int = Field(description="Events of the user so far", examples=[310])
    visible: int = Field(description="Of which the scoring saw the last", examples=[256])
    rows: str = Field(description="Precision of item vectors", examples=["int8"])
    dense: str = Field(description="Precision of matrix products", examples=["fp32"])


class ScoredItem(_Body):
    """One item with everything the model says about it."""

    item: Id = Field(examples=["i9"])
    score: float = Field(description="What the list is sorted by, best first", examples=[2.31])
    next_item: float = Field(
        description="Next-item logit: comparable within one answer only", examples=[2.31]
    )
    actions: dict[str, float] | None = Field(
        description="Probability of each action type; null while no impressions were learned",
        examples=[{"click": 0.23}],
    )
    explanation: ItemExplanation | None = Field(None, description="With `?explain=true` only")
    propensity: float | None = Field(
        None,
        description="Chance that the item is in the list; only with exploration, 1 without",
        examples=[0.83],
    )


class RankAnswer(_Body):
    """Items, best first, and the one version that scored them all."""

    request_id: str = Field(examples=["r-5c1"])
    version: int = Field(examples=[42])
    version_age_seconds: float = Field(examples=[1.8])
    took_ms: float = Field(description="From the whole body to the answer", examples=[3.4])
    left_out: int = Field(
        description="Candidates that were sent and are hidden or have expired", examples=[0]
    )
    items: list[ScoredItem]
    explanation: Explanation | None = Field(None, description="With `?explain=true` only")


class RejectedRecord(_Body):
    """One record of a batch that went nowhere, and why."""

    index: int = Field(description="Position in the batch sent", examples=[3])
    field: str = Field(examples=["at"])
    reason: str = Field(examples=["is not in seconds since the epoch (0 .. 2^40)"])


class AppendAnswer(_Body):
    """What became of a batch. `accepted` records are durable in the log."""

    accepted: int = Field(examples=[2])
    rejected: list[RejectedRecord]


class ServedVersion(_Body):
    """The version that answers."""

    number: int = Field(examples=[42])
    created_at: float = Field(description="Seconds since the epoch", examples=[1732096801.9])
    age_seconds: float = Field(examples=[1.8])
    watermark: float = Field(description="Event time it learned up to, seconds since the epoch")


class RefusedVersion(_Body):
    """A version that could not be loaded; it is tried again."""

    number: int = Field(examples=[43])
    reason: str = Field(examples=["data/00000043-ab/dense.safetensors: SHA-256 differs"])


class HeldVersion(_Body):
    """A version that the gate held: no server answers from it before somebody releases it."""

    number: int = Field(examples=[44])
    reason: str = Field(examples=["loss on old examples is 4.61 where version 43 has 3.94"])


class VersionsAnswer(_Body):
    """The versions this server knows, what was decided about them, and how it computes."""

    served: ServedVersion | None
    pinned: int | None = Field(description="Version that all servers keep to", examples=[None])
    generation: int = Field(description="Newest decision that this server obeys", examples=[3])
    available: list[int] = Field(examples=[[40, 41, 42]])
    held: list[HeldVersion]
    refused: list[RefusedVersion]
    compute: dict[str, Any] = Field(
        examples=[{"rows": "int8", "dense": "fp32", "device": "cpu", "threads": 1}]
    )


class PinAnswer(_Body):
    """A decision about which version servers keep to. Every server obeys within its next look."""

    generation: int = Field(description="Number of this decision", examples=[4])
    pinned: int | None = Field(examples=[41])


class HealthAnswer(_Body):
    """Whether the server runs (live) or should get requests (ready)."""

    status: str = Field(examples=["ok"])
