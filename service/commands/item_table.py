"""A file of items: what `freshet replay --items` puts into the topic `items`.

One row per item, the last of each counting: its id, its categories (`a|b` in a CSV file, there or a
list in JSON lines), and `hidden`, `expires_at`, if there are such columns.
"""

import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from service.commands.action_rows import UnusableError
from service.commands.action_table import identifier
from service.errors import InputError
from service.items import Item, ItemError, check_item

TRUE = ("1", "true", "yes")


@dataclass(frozen=True)
class ItemColumns:
    """Which columns to read."""

    item: str = "item_id"
    categories: str = "categories"


@dataclass(frozen=True)
class ItemTable:
    """Items in file order, and why others could not be used."""

    items: list[Item]
    rejected: Counter[str]


def read_items(path: Path, columns: ItemColumns, at: float) -> ItemTable:
    """Read a CSV or JSON lines file (also .gz); every record is as of the time `at`.

    Raises InputError when the file is missing or damaged, its format is unknown, the column of ids
    is not there, or no row can be used.
    """
    items: list[Item] = []
    rejected: Counter[str] = Counter()
    try:
        for row in _rows(path):
            try:
                items.append(_item(row, columns, at))
            except (UnusableError, ItemError) as error:
                rejected[str(error)] += 1
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is damaged ({error}); fetch it again") from None
    if not items:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in rejected.items())
        raise InputError(f"{path} has no item that can be used: {reasons or 'it has no rows'}")
    return ItemTable(items, rejected)


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        raise InputError(f"item file {path} does not exist; give the path of a readable file")
    name = path.name.lower()
    stem = name.removesuffix(".gz")
    with ExitStack() as stack:
        file: Any = stack.enter_context(path.open("rb"))
        plain = stack.enter_context(gzip.GzipFile(fileobj=file)) if name != stem else file
        if stem.endswith(".csv"):
            text = stack.enter_context(io.TextIOWrapper(plain, "utf-8-sig", newline=""))
            yield from csv.DictReader(text)
        elif stem.endswith((".jsonl", ".ndjson", ".json")):
            yield from map(_decoded, plain)
        else:
            raise InputError(f"{path}: the format is unknown; use .csv or .jsonl (also .gz)")


def _decoded(line: bytes) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}


def _item(row: Mapping[str, Any], columns: ItemColumns, at: float) -> Item:
    if columns.item not in row:
        found = ", ".join(str(name) for name in row if name) or "none"
        raise UnusableError(f"column {columns.item!r} is missing (there are: {found})")
    item = Item(
        item=identifier("item", row[columns.item]), at=at,
        categories=_categories(row.get(columns.categories)),
        hidden=str(row.get("hidden") or "").lower() in TRUE,
        expires_at=_time(row.get("expires_at")),
    )  # fmt: skip
    check_item(item)
    return item


def _categories(raw: Any) -> list[str]:
    values = raw if isinstance(raw, list) else str(raw or "").split("|")
    if not all(isinstance(value, str) for value in values):
        raise UnusableError("a category is no text")
    return [value for value in dict.fromkeys(values) if value]


def _time(raw: Any) -> float | None:
    if raw is None or raw == "":
        return None
    try:
        return float(raw)
    except (TypeError, ValueError):
        raise UnusableError("expires_at is no number") from None
