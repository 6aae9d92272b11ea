"""One block of the stream: records decoded, checked and collected column by column.

What cannot be used is collected too, with its reason and its place; it stops nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import xxhash

from service.actions import (
    MAX_LIST,
    Action,
    Id,
    Impression,
    Rejected,
    id_problem,
    key_of,
    time_problem,
)
from service.histories.local import Events
from service.streams import Record

Offsets = dict[str, dict[int, int]]
"""Next record to read, by topic and partition."""

Source = tuple[str, int]
"""Topic and partition that a record comes from."""

MAX_TEXT_SHOWN = 1024
"""Of a rejected payload and of what is wrong with it, in characters."""
MAX_HISTORY = 2**53
"""Most events that an impression may say its scoring saw."""


@dataclass
class Block:
    """The next merged records of the stream, decoded: the unit of progress."""

    events: Events
    requests: list[str | None]
    """Request id of each event, where the action names the impression it follows."""
    items: list[Id]
    """Original id of each event's item."""
    impressions: list[Impression]
    rejected: list[Rejected]
    offsets: Offsets
    watermark_ms: int
    records: int


class _Refused(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class BlockBuilder:
    """Collects one block, column by column."""

    def __init__(self, codes: Mapping[str, int], future_ms: float, late_ms: float) -> None:
        """codes: of the action types; the bounds of event time after and before append time."""
        self._codes, self._future_ms, self._late_ms = codes, future_ms, late_ms
        self._columns: tuple[list[int], ...] = ([], [], [], [], [])
        self._requests: list[str | None] = []
        self._items: list[Id] = []
        self._impressions: list[Impression] = []
        self._rejected: list[Rejected] = []
        self.records = 0

    def action(self, record: Record, source: Source, decode: Callable[[bytes], Any]) -> int:
        """Add one action; return its event time, 0 if it was rejected."""
        try:
            action: Action = decode(record.payload)
            code = self._codes.get(action.action)
            if code is None:
                known = ", ".join(self._codes)
                raise _Refused("unknown_action", f"action {action.action!r}; known are {known}")
            user, item = _checked_key(action.user, "user"), _checked_key(action.item, "item")
            at_ms = self._checked_time(action.at, record.append_ms)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, _Refused) as error:
            self._reject(record, source, error)
            return 0
        columns = self._columns
        columns[0].append(user)
        columns[1].append(item)
        columns[2].append(code)
        columns[3].append(at_ms)
        columns[4].append(_hash(action.id) if action.id else 0)
        self._requests.append(action.request)
        self._items.append(action.item)
        return at_ms

    def impression(self, record: Record, source: Source, decode: Callable[[bytes], Any]) -> int:
        """Add one impression; return its event time, 0 if it was rejected."""
        try:
            shown: Impression = decode(record.payload)
            _checked_key(shown.user, "user")
            if not shown.items or len(shown.items) > MAX_LIST:
                raise _Refused("bad_list", f"{len(shown.items)} items; 1 to {MAX_LIST} are allowed")
            for item in shown.items:
                _checked_key(item, "items")
            if not 0 <= (shown.history or 0) <= MAX_HISTORY:
                raise _Refused("bad_field", f"history = {shown.history} counts no events")
            at_ms = self._checked_time(shown.at, record.append_ms)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, _Refused) as error:
            self._reject(record, source, error)
            return 0
        self._impressions.append(shown)
        return at_ms

    def build(self, offsets: Offsets, watermark_ms: int) -> Block:
        """The block; the builder is used up."""
        events = Events(*(np.array(column, np.int64) for column in self._columns))
        return Block(
            events, self._requests, self._items, self._impressions, self._rejected, offsets,
            watermark_ms, self.records,
        )  # fmt: skip

    def _checked_time(self, at: float, append_ms: int) -> int:
        problem = time_problem(at)
        if problem:
            raise _Refused("bad_time", f"at = {at!r} {problem}")
        at_ms = round(at * 1000)
        if at_ms - append_ms > self._future_ms:
            raise _Refused("too_early", f"at is {(at_ms - append_ms) / 1000:.0f} s in the future")
        if append_ms - at_ms > self._late_ms:
            raise _Refused("too_late", f"at is {(append_ms - at_ms) / 1000:.0f} s in the past")
        return at_ms

    def _reject(self, record: Record, source: Source, error: Exception) -> None:
        if isinstance(error, _Refused):
            reason, detail = error.reason, error.detail
        elif isinstance(error, msgspec.ValidationError):
            reason, detail = "bad_field", str(error)
        else:
            reason, detail = "bad_json", str(error)
        shown = record.payload[:MAX_TEXT_SHOWN].decode(errors="replace")
        self._rejected.append(
            Rejected(
                topic=source[0],
                partition=source[1],
                offset=record.offset,
                reason=reason,
                detail=detail[:MAX_TEXT_SHOWN],
                payload=shown,
            )
        )


def _checked_key(identifier: Id, name: str) -> int:
    problem = id_problem(identifier)
    if problem:
        raise _Refused("bad_id", f"{name} {problem}")
    return key_of(identifier)


def _hash(identifier: str) -> int:
    return (xxhash.xxh3_64_intdigest(identifier.encode()) >> 1) or 1
