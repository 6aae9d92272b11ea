"""Posted batches of actions or impressions: each record is checked, the good ones go into the log.

The elements are records of the stream, so they are msgspec structs as there; what HTTP adds is a
default time. A record that is refused here goes nowhere; one that is taken passes the same checks
again when it is read (`service.intake`).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Generic, Protocol, TypeVar

import msgspec
from msgspec import Meta

from service.actions import (
    MAX_LIST,
    Action,
    Id,
    Impression,
    id_problem,
    key_of,
    stream_key,
    time_problem,
)
from service.items import (
    Item,
    ItemError,
    Scalar,
    check_item,
    item_key,
)
from service.streams.protocol import Stream
from serving.messages import RejectedRecord
from serving.problems import Problem, invalid_field

R = TypeVar("R", Action, Impression, Item)


AT = Meta(description="When, in seconds since the epoch; the server's clock if absent")
VERSION = Meta(description="Version of the schema")


class PostedAction(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """An action as it is posted; `at` is the server's clock when absent."""

    user: Annotated[Id, Meta(description="Who did it: a string of 1 to 256 bytes or an integer")]
    item: Annotated[Id, Meta(description="What it was done to")]
    action: Annotated[str, Meta(description="One of the configured action types")]
    at: Annotated[float | None, AT] = None
    v: Annotated[int, VERSION] = 1
    id: Annotated[
        str | None, Meta(description="The same id among the user's last 64 counts once")
    ] = None
    request: Annotated[
        str | None, Meta(description="The `request_id` of the list it was done on")
    ] = None
    value: Annotated[float | None, Meta(description="A number, kept in the log")] = None
    context: Annotated[
        dict[str, str | int | float | bool | None] | None, Meta(description="Kept in the log")
    ] = None


class PostedImpression(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A list that was really shown, as it is posted; `at` is the server's clock when absent."""

    request: Annotated[str, Meta(description="The `request_id` of the ranking")]
    user: Annotated[Id, Meta(description="Who saw it")]
    items: Annotated[list[Id], Meta(description="1 to 4096 items in the order shown")]
    at: Annotated[float | None, AT] = None
    v: Annotated[int, VERSION] = 1
    positions: Annotated[list[int] | None, Meta(description="One per item")] = None
    propensities: Annotated[list[float] | None, Meta(description="One per item")] = None
    history: Annotated[
        int | None, Meta(description="How many of the user's events the scoring saw")
    ] = None
    version: Annotated[int | None, Meta(description="The version that scored")] = None


class PostedItem(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is known of an item, as it is posted; `at` is the server's clock when absent."""

    item: Annotated[Id, Meta(description="A string of 1 to 256 bytes or an integer")]
    at: Annotated[float | None, AT] = None
    v: Annotated[int, VERSION] = 1
    categories: Annotated[list[str], Meta(description="Up to 32, of up to 128 bytes each")] = []
    hidden: Annotated[bool, Meta(description="Never returned")] = False
    expires_at: Annotated[
        float | None, Meta(description="Not returned from then on; seconds since the epoch")
    ] = None
    features: Annotated[dict[str, Scalar], Meta(description="Up to 32")] = {}
    deleted: Annotated[bool, Meta(description="Nothing is known of the item any more")] = False


ACTION_EXAMPLE = {
    "id": "a-81f",
    "user": "u1",
    "item": "i9",
    "action": "click",
    "at": 1732096800.123,
    "request": "r-5c1",
}
IMPRESSION_EXAMPLE = {"request": "r-5c1", "user": "u1", "items": ["i9", "i4"], "positions": [0, 1]}

ITEM_EXAMPLE = {
    "item": "i9",
    "categories": ["news", "sport"],
    "expires_at": 1732183200,
    "features": {"language": "en"},
}


class _Actions(msgspec.Struct, forbid_unknown_fields=True):
    actions: list[msgspec.Raw]


class _Impressions(msgspec.Struct, forbid_unknown_fields=True):
    impressions: list[msgspec.Raw]


class _Items(msgspec.Struct, forbid_unknown_fields=True):
    items: list[msgspec.Raw]


@dataclass
class Batch(Generic[R]):
    """What a body held: the good records, and the others with their reasons."""

    accepted: list[R] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)


class RecordError(ValueError):
    """Why one record cannot be taken."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True)
class Rules:
    """What the reader of the log will accept, so that a sender learns at once what it will not."""

    known: tuple[str, ...]
    """Names of the action types."""
    max_future_seconds: float
    max_late_seconds: float

    def time_problem(self, at: float, now: float) -> str | None:
        """Why an event time cannot be used in a record that arrives `now`, or None."""
        if problem := time_problem(at):
            return problem
        if at - now > self.max_future_seconds:
            return f"is {at - now:.0f} s in the future; {self.max_future_seconds:g} are allowed"
        if now - at > self.max_late_seconds:
            return f"is {now - at:.0f} s in the past; {self.max_late_seconds:g} are allowed"
        return None


class Meter(Protocol):
    """What the sender of a batch, and the users in it, may send."""

    def batch(self, name: str, count: int) -> None:
        """Count a batch of so many records. Raises Problem for too many."""

    def action(self, user_key: int) -> bool:
        """Count an action of a user; False when it is too many."""


def read_actions(body: bytes, rules: Rules, now: float, meter: Meter) -> Batch[Action]:
    """The actions of a body. Raises Problem when the body as a whole cannot be taken."""
    elements = _elements(body, "actions", _Actions, meter)

    def check(raw: msgspec.Raw) -> Action:
        action = _action(_decode_action(raw), rules, now)
        if not meter.action(key_of(action.user)):
            raise RecordError("user", "rate_limited")
        return action

    return _sort_out(elements, check)


def read_impressions(body: bytes, rules: Rules, now: float, meter: Meter) -> Batch[Impression]:
    """The impressions of a body. Raises Problem when the body as a whole cannot be taken."""
    elements = _elements(body, "impressions", _Impressions, meter)
    return _sort_out(elements, lambda raw: _impression(_decode_impression(raw), rules, now))


def read_items(body: bytes, rules: Rules, now: float, meter: Meter) -> Batch[Item]:
    """What a body says of items. Raises Problem when the body as a whole cannot be taken."""
    elements = _elements(body, "items", _Items, meter)
    return _sort_out(elements, lambda raw: _item(_decode_item(raw), rules, now))


def append_by_item(stream: Stream, topic: str, records: Iterable[Item]) -> None:
    """Append every record to its item's partition under its key, as `append_by_user` does."""
    some = list(records)
    stream.append_keyed(topic, list(map(_encode, some)), [item_key(one.item) for one in some])


def append_by_user(stream: Stream, topic: str, records: Iterable[Action | Impression]) -> None:
    """Append every record to its user's partition; returns when all are in the log.

    Raises StreamError or OSError; then some partitions may have taken theirs, and the sender
    should repeat the whole batch: an action with an `id` counts once.
    """
    some = list(records)
    stream.append_keyed(topic, list(map(_encode, some)), [stream_key(one.user) for one in some])


_encode = msgspec.json.Encoder().encode
_decode_action = msgspec.json.Decoder(PostedAction).decode
_decode_item = msgspec.json.Decoder(PostedItem).decode
_decode_impression = msgspec.json.Decoder(PostedImpression).decode


def _elements(
    body: bytes, name: str, kind: type[_Actions | _Impressions | _Items], meter: Meter
) -> list[msgspec.Raw]:
    try:
        elements: list[msgspec.Raw] = getattr(msgspec.json.decode(body, type=kind), name)
    except msgspec.ValidationError as error:
        raise invalid_field(*_explain(error, name)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem("not-json", HTTPStatus.BAD_REQUEST, str(error)) from None
    meter.batch(name, len(elements))
    return elements


def _sort_out(elements: list[msgspec.Raw], check: Callable[[msgspec.Raw], R]) -> Batch[R]:
    batch: Batch[R] = Batch()
    for index, raw in enumerate(elements):
        try:
            batch.accepted.append(check(raw))
        except RecordError as error:
            found = (error.field, error.reason)
        except msgspec.ValidationError as error:
            found = _explain(error, "")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            found = ("", f"is not JSON: {error}")
        else:
            continue
        batch.rejected.append(RejectedRecord(index=index, field=found[0], reason=found[1]))
    return batch


def _action(posted: PostedAction, rules: Rules, now: float) -> Action:
    at = now if posted.at is None else posted.at
    _require("user", id_problem(posted.user))
    _require("item", id_problem(posted.item))
    _require("at", rules.time_problem(at, now))
    _require("id", _text_problem(posted.id))
    _require("request", _text_problem(posted.request))
    if posted.action not in rules.known:
        raise RecordError("action", f"is not one of {', '.join(rules.known)}")
    return Action(
        user=posted.user, item=posted.item, action=posted.action, at=at, v=posted.v, id=posted.id,
        request=posted.request, value=posted.value, context=posted.context,
    )  # fmt: skip


def _impression(posted: PostedImpression, rules: Rules, now: float) -> Impression:
    at = now if posted.at is None else posted.at
    _require("request", _text_problem(posted.request))
    _require("user", id_problem(posted.user))
    _require("at", rules.time_problem(at, now))
    if not 1 <= len(posted.items) <= MAX_LIST:
        raise RecordError("items", f"must hold 1 to {MAX_LIST} elements, not {len(posted.items)}")
    for place, item in enumerate(posted.items):
        _require(f"items[{place}]", id_problem(item))
    for name, beside in (("positions", posted.positions), ("propensities", posted.propensities)):
        if beside is not None and len(beside) != len(posted.items):
            raise RecordError(name, f"must hold {len(posted.items)} elements, one per item")
    return Impression(
        request=posted.request, user=posted.user, at=at, items=posted.items, v=posted.v,
        positions=posted.positions, propensities=posted.propensities, history=posted.history,
        version=posted.version,
    )  # fmt: skip


def _item(posted: PostedItem, rules: Rules, now: float) -> Item:
    at = now if posted.at is None else posted.at
    item = Item(
        item=posted.item, at=at, v=posted.v, categories=posted.categories, hidden=posted.hidden,
        expires_at=posted.expires_at, features=posted.features, deleted=posted.deleted,
    )  # fmt: skip
    try:
        check_item(item)
    except ItemError as error:
        raise RecordError(error.field, error.reason) from None
    if at - now > rules.max_future_seconds:
        _require("at", rules.time_problem(at, now))
    return item


def _require(field: str, problem: str | None) -> None:
    if problem is not None:
        raise RecordError(field, problem)


def _text_problem(text: str | None) -> str | None:
    """Why an optional string cannot be used: the bounds of an id hold for it."""
    return None if text is None else id_problem(text)


_PATH = re.compile(r"(?P<detail>.*) - at `\$\.?(?P<field>.*)`$")
_NAMED = re.compile(r"Object (?P<what>missing required|contains unknown) field `(?P<field>.*)`")


def _explain(error: msgspec.ValidationError, whole: str) -> tuple[str, str]:
    """(field, reason) of msgspec's message; `whole` names the body when no field is to blame."""
    text = str(error)
    if named := _NAMED.match(text):
        missing = named["what"] == "missing required"
        return named["field"], "is missing" if missing else "is not a known field"
    if path := _PATH.match(text):
        return path["field"], path["detail"].replace("`", "")
    return whole, text.replace("`", "")
