"""A whole action file as columns in event-time order, ready to be appended to the stream.

Ids and action types are interned: a row costs 18 bytes, and an id is checked once, where it is
first seen. A row that cannot be used is counted by reason and stops nothing.

Suffix: T rows.
"""

import gzip
import itertools
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from service.action_types import MAX_ACTION_TYPES
from service.actions import Action, Id, id_problem, stream_key, time_problem
from service.commands.action_rows import UNIT_SECONDS, Columns, Source, UnusableError, open_rows
from service.errors import InputError

CANONICAL_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
ROWS_PER_REPORT = 50_000
Value = TypeVar("Value")
Progress = Callable[[float], None]


@dataclass(frozen=True)
class ActionTable:
    """Actions in event-time order: codes into the lists of ids and types, times in seconds."""

    users: list[Id]
    items: list[Id]
    types: list[str]
    user_T: npt.NDArray[np.int32]
    item_T: npt.NDArray[np.int32]
    type_T: npt.NDArray[np.int16]
    at_T: npt.NDArray[np.float64]
    rejected: Counter[str]

    def __len__(self) -> int:
        return len(self.at_T)

    def payloads(self, start: int, stop: int) -> list[bytes]:
        """The stream payloads of rows `start` to `stop`."""
        encode = msgspec.json.Encoder().encode
        users, items, types = self.users, self.items, self.types
        columns = (self.user_T, self.item_T, self.type_T, self.at_T)
        rows = zip(*(column[start:stop].tolist() for column in columns), strict=True)
        return [
            encode(Action(user=users[user], item=items[item], action=types[kind], at=at))
            for user, item, kind, at in rows
        ]

    def keys(self, start: int, stop: int) -> list[bytes]:
        """The stream keys of rows `start` to `stop`: their users."""
        return [stream_key(self.users[user]) for user in self.user_T[start:stop].tolist()]

    def append_ms(self, start: int, stop: int) -> list[int]:
        """Event times of rows `start` to `stop` in milliseconds, to serve as append times."""
        times: list[int] = np.rint(self.at_T[start:stop] * 1000).astype(np.int64).tolist()
        return times


def read_actions(
    path: Path, columns: Columns, limit: int | None = None, progress: Progress | None = None
) -> ActionTable:
    """Read the first `limit` rows of a CSV, JSON lines (both also .gz) or Parquet file.

    `progress` is called with the share of the file read so far. Raises InputError when the file is
    missing or damaged, a column is missing, the format is unknown, or no row can be used.
    """
    if columns.unit not in UNIT_SECONDS:
        raise InputError(f"time unit {columns.unit!r} is unknown; use s or ms")
    if not path.is_file():
        raise InputError(f"action file {path} does not exist; give the path of a readable file")
    builder = _Builder(UNIT_SECONDS[columns.unit])
    try:
        with open_rows(path, columns) as (source, file):
            rows = _reported(source.rows, file, path.stat().st_size, progress)
            builder.add(source._replace(rows=itertools.islice(rows, limit)))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} is damaged after row {builder.rows} ({error}); fetch it again, "
            f"or take what is whole with --limit {builder.rows}"
        ) from None
    return builder.table(path)


class _Interned(dict[Any, int], Generic[Value]):
    """Raw value -> number of the value it stands for; else UnusableError."""

    def __init__(self, parse: Callable[[Any], Value], values: list[Value]) -> None:
        self._parse, self._values = parse, values

    def __missing__(self, raw: Any) -> int:
        self._values.append(self._parse(raw))
        self[raw] = code = len(self._values) - 1
        return code


class _Builder:
    """Columns that grow row by row, in file order."""

    def __init__(self, unit_seconds: float) -> None:
        self.rows = 0
        self._unit_seconds = unit_seconds
        self._users: list[Id] = []
        self._items: list[Id] = []
        self._types: list[str] = []
        self._columns = array("i"), array("i"), array("h"), array("d")
        self._rejected: Counter[str] = Counter()

    def add(self, source: Source) -> None:
        """Check and keep every row of the source; count those that cannot be used."""
        users = _Interned(lambda raw: identifier("user", raw), self._users)
        items = _Interned(lambda raw: identifier("item", raw), self._items)
        types = _Interned(self._type, self._types)
        user_T, item_T, type_T, at_T = self._columns
        pick, unit_seconds = source.pick, self._unit_seconds
        for row in source.rows:
            self.rows += 1
            try:
                user, item, raw_at, kind = pick(row)
                at = _seconds(raw_at, unit_seconds)
                codes = users[user], items[item], types[kind]
            except UnusableError as reason:
                self._rejected[str(reason)] += 1
                continue
            user_T.append(codes[0])
            item_T.append(codes[1])
            type_T.append(codes[2])
            at_T.append(at)

    def table(self, path: Path) -> ActionTable:
        """The columns, sorted by time; rows of the same time stay in file order."""
        at_T = np.frombuffer(self._columns[3], np.float64)
        if not len(at_T):
            reasons = ", ".join(f"{count} x {reason}" for reason, count in self._rejected.items())
            raise InputError(f"{path} has no row that can be used: {reasons or 'it has no rows'}")
        order_T = np.argsort(at_T, kind="stable")
        return ActionTable(
            self._users,
            self._items,
            self._types,
            np.frombuffer(self._columns[0], np.int32)[order_T],
            np.frombuffer(self._columns[1], np.int32)[order_T],
            np.frombuffer(self._columns[2], np.int16)[order_T],
            at_T[order_T],
            self._rejected,
        )

    def _type(self, raw: Any) -> str:
        if raw is None or raw == "":
            raise UnusableError("action is missing")
        if not isinstance(raw, str | int):
            raise UnusableError("action is not text or an integer")
        if len(self._types) == MAX_ACTION_TYPES:
            raise InputError(
                f"more than {MAX_ACTION_TYPES} action types, {raw!r} is one of them: "
                "name the column that holds the type with --action-column"
            )
        return str(raw)


def _seconds(raw: Any, unit_seconds: float) -> float:
    try:
        at = float(raw) * unit_seconds
    except (TypeError, ValueError):
        raise UnusableError("time is not a number") from None
    if 0 <= at < 2**40:
        return at
    raise UnusableError(f"time {time_problem(at)}")


def identifier(kind: str, raw: Any) -> Id:
    """The id that a raw value stands for: text that is a canonical integer becomes one."""
    if raw is None:
        raise UnusableError(f"{kind} is missing")
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise UnusableError(f"{kind} is not text or an integer")
    integer = isinstance(raw, str) and CANONICAL_INTEGER.fullmatch(raw)
    identifier: Id = int(raw) if integer and id_problem(int(raw)) is None else raw
    if problem := id_problem(identifier):
        raise UnusableError(f"{kind} {problem}")
    return identifier


def _reported(
    rows: Iterator[Any], file: IO[bytes], size_bytes: int, progress: Progress | None
) -> Iterator[Any]:
    for number, row in enumerate(rows, 1):
        if progress is not None and number % ROWS_PER_REPORT == 0:
            progress(file.tell() / size_bytes)
        yield row
