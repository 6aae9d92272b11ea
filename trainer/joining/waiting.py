"""What has not come to its end: shown lists and actions, in one table each.

They are an SQLite database whose page cache is the budget: what is within it stays in memory, what
is beyond goes to a file of its own. Nothing is ever committed or synced: the file is a cache that
ends with the process, for the streams hold all of it.
"""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import mkstemp
from typing import Any

import numpy as np

from service.errors import StreamError

PAGE_BYTES = 4096
FEWEST_PAGES = 16
OPEN, CLOSED, UNUSABLE = range(3)
"""Stages of a shown list: it waits; it was learned; it was to be, and its history was gone."""

Row = tuple[Any, ...]

_SCHEMA = """
CREATE TABLE shown (key INTEGER PRIMARY KEY, user INTEGER, at INTEGER, partition INTEGER,
    offset INTEGER, history INTEGER, items BLOB, positions BLOB, propensities BLOB, stage INTEGER,
    shadow INTEGER);
CREATE INDEX shown_open ON shown(at) WHERE stage = 0;
CREATE INDEX shown_at ON shown(at);
CREATE INDEX shown_user ON shown(user);
CREATE TABLE named (id INTEGER PRIMARY KEY, key INTEGER, user INTEGER, item INTEGER,
    action INTEGER, at INTEGER, done INTEGER DEFAULT 0);
CREATE UNIQUE INDEX named_once ON named(key, item, action, at);
CREATE INDEX named_waits ON named(at) WHERE done = 0;
CREATE TABLE loose (id INTEGER PRIMARY KEY, user INTEGER, item INTEGER, action INTEGER,
    at INTEGER);
CREATE INDEX loose_user ON loose(user);
CREATE INDEX loose_at ON loose(at);
"""
_CONTENTS = (
    "SELECT key, user, at, partition, offset, history, items, positions, propensities, stage, "
    "shadow FROM shown",
    "SELECT key, user, item, action, at, done FROM named",
    "SELECT user, item, action, at FROM loose",
)


class Waiting:
    """The tables. One thread at a time. Every method but `close` raises StreamError where the disk
    does not take what is beyond the budget."""

    def __init__(self, folder: Path | None = None, budget_bytes: int = 2**26) -> None:
        """Files that others have left in `folder` are removed. Without one all is in memory."""
        self._path: Path | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob("*.waiting"):
                left.unlink(missing_ok=True)
            number, name = mkstemp(".waiting", dir=folder)
            os.close(number)
            self._path = Path(name)
        self._database = sqlite3.connect(
            self._path or ":memory:", isolation_level=None, check_same_thread=False
        )
        pages = max(FEWEST_PAGES, budget_bytes // PAGE_BYTES)
        for pragma in (
            f"page_size = {PAGE_BYTES}", f"cache_size = {pages}", "journal_mode = OFF",
            "synchronous = OFF", "locking_mode = EXCLUSIVE", "temp_store = MEMORY",
            "secure_delete = ON",  # nothing of erased users is left in a page
        ):  # fmt: skip
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("BEGIN")
        for statement in _SCHEMA.split(";"):
            self._database.execute(statement)

    @property
    def spilled_bytes(self) -> int:
        """Size of the file: nothing while all fits the budget."""
        try:
            return self._path.stat().st_size if self._path else 0
        except FileNotFoundError:
            return 0  # somebody removed it; it is there for us

    def rows(self, query: str, *values: Any) -> list[Row]:
        """All rows that the query finds."""
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:
            raise self._trouble(error) from error

    def row(self, query: str, *values: Any) -> Row | None:
        """The first row that the query finds."""
        found = self.rows(query, *values)
        return found[0] if found else None

    def change(self, statement: str, *values: Any) -> None:
        """Carry out a statement."""
        self.rows(statement, *values)

    def change_all(self, statement: str, rows: Iterable[Sequence[Any]]) -> int:
        """Carry out a statement for each of the rows; how many rows it has changed."""
        before = self._database.total_changes
        try:
            self._database.executemany(statement, rows)
        except sqlite3.OperationalError as error:
            raise self._trouble(error) from error
        return self._database.total_changes - before

    def contents(self) -> list[list[Row]]:
        """Everything, in an order of its own: equal where two hold the same."""
        return [sorted(self.rows(query), key=repr) for query in _CONTENTS]

    def close(self) -> None:
        """Let go of the file and remove it."""
        self._database.close()
        if self._path:
            self._path.unlink(missing_ok=True)

    def _trouble(self, error: sqlite3.OperationalError) -> Exception:
        if "full" not in str(error) and "I/O" not in str(error):
            return error
        return StreamError(
            f"open impressions beyond trainer.join_memory_bytes do not go to {self._path}: {error};"
            " make room on its disk or raise the setting, and start the trainer again: nothing is "
            "lost"
        )


def packed(values: Sequence[float], kind: type[np.number[Any]] = np.int64) -> bytes:
    """Numbers as a table keeps them."""
    return np.array(values, kind).tobytes()


def unpacked(data: bytes, kind: type[np.number[Any]] = np.int64) -> list[Any]:
    """The numbers that were packed."""
    values: list[Any] = np.frombuffer(data, kind).tolist()
    return values
