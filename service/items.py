"""What is known of items: records of the topic `items`, keyed by item. The latest one counts whole.

Evolution follows the rules of `service.actions`.
"""

from collections.abc import Sequence

import msgspec

from service.actions import Id, id_problem, key_of, time_problem

MAX_CATEGORIES = 32
MAX_CATEGORY_BYTES = 128
MAX_FEATURES = 32
MAX_FEATURE_BYTES = 256

Scalar = str | int | float | bool


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is known of one item; what an earlier record said of it is forgotten.

    `hidden`, and after `expires_at` (seconds since the epoch) anyway, it is never returned.
    `deleted` is a record that says that nothing is known any more.
    """

    item: Id
    at: float | None = None
    """When this was so, seconds since the epoch; the time of appending when absent."""
    v: int = 1
    categories: list[str] = []
    hidden: bool = False
    expires_at: float | None = None
    features: dict[str, Scalar] = {}
    deleted: bool = False


class ItemError(ValueError):
    """Why an item record cannot be used: the field, one word for counters, and the words."""

    def __init__(self, field: str, kind: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field, self.kind, self.reason = field, kind, reason


def check_item(item: Item) -> None:
    """Raise ItemError for what no reader of the topic takes."""
    _require("item", "bad_id", id_problem(item.item))
    if item.at is not None:
        _require("at", "bad_time", time_problem(item.at))
    if item.expires_at is not None:
        _require("expires_at", "bad_time", time_problem(item.expires_at))
    _require("categories", "bad_field", _too_many(item.categories, MAX_CATEGORIES))
    for place, category in enumerate(item.categories):
        name = f"categories[{place}]"
        _require(name, "bad_field", text_problem(category, MAX_CATEGORY_BYTES))
    _require("features", "bad_field", _too_many(item.features, MAX_FEATURES))
    for name, value in item.features.items():
        _require("features", "bad_field", text_problem(name, MAX_CATEGORY_BYTES))
        if isinstance(value, str):
            problem = None if value == "" else text_problem(value, MAX_FEATURE_BYTES)
            _require(f"features.{name}", "bad_field", problem)


def text_problem(text: str, most_bytes: int) -> str | None:
    """Why a category or a feature's text cannot be used, or None."""
    if not text:
        return "is empty"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "holds a lone surrogate, which is no character"
    return f"has {size} bytes; the longest may have {most_bytes}" if size > most_bytes else None


def category_keys(items: Sequence[Item]) -> dict[int, list[int]]:
    """Keys of each item's categories by the item's key: the last record of each item counts."""
    return {
        key_of(one.item): [] if one.deleted else [key_of(name) for name in one.categories]
        for one in items
    }


def item_key(item: Id) -> bytes:
    """The key of an item's records: its id as JSON, so that 7 and "7" are two items."""
    return msgspec.json.encode(item)


def of_tombstone(key: bytes) -> Item:
    """What a record without a payload says: its key names an item of which nothing is known now.

    A key that is not JSON is taken as the text of an id. Raises ItemError for one that names none.
    """
    try:
        named: Id = msgspec.json.decode(key, type=Id)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        named = key.decode(errors="surrogateescape")
    _require("key", "bad_id", id_problem(named))
    return Item(item=named, deleted=True)


def _require(field: str, kind: str, problem: str | None) -> None:
    if problem is not None:
        raise ItemError(field, kind, problem)


def _too_many(values: list[str] | dict[str, Scalar], most: int) -> str | None:
    return f"holds {len(values)} elements; {most} are allowed" if len(values) > most else None
