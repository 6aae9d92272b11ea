"""Rows of an action file as its format gives them, and how to pick the four fields out of one.

Damage of the whole file raises; a row that
is wrong raises `UnusableError` only when it is picked, so that the reader can count it and go on.
"""

import contextlib
import csv
import gzip
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from service.errors import InputError

ACTION_IF_ABSENT = "click"
"""The action type of every row of a file without an action column."""
UNIT_SECONDS = {"s": 1.0, "ms": 1e-3}
TEXT_OR_INTEGER = (str, int, type(None))
Fields = tuple[Any, Any, Any, Any]
"""User, item, time and action, as they stand in the file."""


class UnusableError(Exception):
    """Why one row cannot be used. Counted, never raised to the user."""


@dataclass(frozen=True)
class Columns:
    """Which columns to read. `action` None: column `action` where there is one, else "click"."""

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    action: str | None = None
    unit: str = "s"


class Source(NamedTuple):
    """Raw rows in file order, and the function that picks the fields of one."""

    rows: Iterator[Any]
    pick: Callable[[Any], Fields]


@contextlib.contextmanager
def open_rows(path: Path, columns: Columns) -> Iterator[tuple[Source, IO[bytes]]]:
    """The rows of the file, in the format that its name says, and the open file.

    Raises InputError when the format is unknown or a column is missing.
    """
    name = path.name.lower()
    stem = name.removesuffix(".gz")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        plain: Any = gzip.GzipFile(fileobj=file) if name != stem else file
        if stem.endswith(".csv"):
            text = io.TextIOWrapper(plain, "utf-8-sig", errors="surrogateescape", newline="")
            stack.callback(text.detach)
            yield _csv(path, csv.reader(text), columns), file
        elif stem.endswith((".jsonl", ".ndjson", ".json")):
            yield Source(iter(plain), _json_picker(columns)), file
        elif name.endswith(".parquet"):
            yield _parquet(path, file, columns), file
        else:
            raise InputError(
                f"{path}: the format is unknown; use .csv, .jsonl (also .gz) or .parquet"
            )


def _csv(path: Path, reader: Iterator[list[str]], columns: Columns) -> Source:
    header = next(reader, [])
    names = _column_names(path, header, columns)
    fields = itemgetter(*map(header.index, names))
    absent = (ACTION_IF_ABSENT,) * (4 - len(names))

    def pick(row: list[str]) -> Fields:
        try:
            return (*fields(row), *absent)
        except IndexError:
            raise UnusableError("row is malformed") from None

    return Source(_readable(reader), pick)


def _readable(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The reader's rows; an empty one where it cannot read."""
    while True:
        try:
            yield from reader
            return
        except csv.Error:
            yield []


def _json_picker(columns: Columns) -> Callable[[bytes], Fields]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    names = (columns.user, columns.item, columns.time)
    action = columns.action or "action"
    absent = ACTION_IF_ABSENT if columns.action is None else None

    def pick(line: bytes) -> Fields:
        try:
            row = decode(line)
            user, item, at = (row[name] for name in names)
        except KeyError as missing:
            raise UnusableError(f"field {missing} is missing") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise UnusableError("row is malformed") from None
        kind = row.get(action, absent)
        for name, value in zip((*names[:2], action), (user, item, kind), strict=True):
            if type(value) not in TEXT_OR_INTEGER:  # true equals 1, and a list has no hash
                raise UnusableError(f"field {name!r} is not text or an integer")
        return user, item, at, kind

    return pick


def _parquet(path: Path, file: IO[bytes], columns: Columns) -> Source:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(
            f"reading {path} needs the extra `parquet`: pip install 'freshet[parquet]'"
        ) from None
    try:
        parquet = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a Parquet file: {error}") from None
    names = _column_names(path, parquet.schema_arrow.names, columns)

    def rows() -> Iterator[Any]:
        for batch in parquet.iter_batches(columns=names):
            user, item, at, *action = (batch.column(name) for name in names)
            times = _in_unit(at, columns.unit) if pa.types.is_timestamp(at.type) else at.to_pylist()
            types = action[0].to_pylist() if action else [ACTION_IF_ABSENT] * batch.num_rows
            yield from zip(user.to_pylist(), item.to_pylist(), times, types, strict=True)

    return Source(rows(), lambda row: row)


def _in_unit(timestamps: Any, unit: str) -> list[float | None]:
    """Values of a Parquet timestamp column in seconds or milliseconds since the epoch."""
    moments = timestamps.cast("timestamp[us]").cast("int64").to_pylist()
    scale = 1e-6 / UNIT_SECONDS[unit]
    return [None if moment is None else moment * scale for moment in moments]


def _column_names(path: Path, header: list[str], columns: Columns) -> list[str]:
    """The three or four columns to read. Raises InputError naming one that is not there."""
    wanted = {"user": columns.user, "item": columns.item, "time": columns.time}
    if columns.action is not None or "action" in header:
        wanted["action"] = columns.action or "action"
    for option, name in wanted.items():
        if name not in header:
            raise InputError(
                f"{path} has no column {name!r}, it has {', '.join(header) or 'none'}; "
                f"name the right one with --{option}-column"
            )
    return list(wanted.values())
