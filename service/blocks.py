"""One block of the stream: records decoded, checked and collected column by column.

What cannot be used is collected too, with its reason and its place; it stops nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any

import msgspec
import numpy as np
import xxhash

from service.actions import (
    MAX_LIST,
    RESERVED_KEY,
    Action,
    Id,
    Impression,
    Rejected,
    id_problem,
    key_of,
    time_problem,
)
from service.histories.erased import Erased
from service.histories.leaving import Flags
from service.histories.local import Events
from service.histories.rings import Longs
from service.items import Item, ItemError, check_item, of_tombstone
from service.streams import Record

Offsets = dict[str, dict[int, int]]
"""Next record to read, by topic and partition."""

Source = tuple[str, int]
"""Topic and partition that a record comes from."""

MAX_TEXT_SHOWN = 1024
"""Of a rejected payload and of what is wrong with it, in characters."""
MAX_HISTORY = 2**53
"""Most events that an impression may say its scoring saw."""


@dataclass(frozen=True)
class Places:
    """Partition and offset of T records of one topic."""

    partition_T: Longs
    offset_T: Longs

    @classmethod
    def none(cls) -> "Places":
        """Of nothing."""
        return cls(*np.zeros((2, 0), np.int64))

    def where(self, kept_T: Flags) -> "Places":
        """Those whose flag is set; there may be none at all."""
        if not len(self.offset_T):
            return self
        return Places(self.partition_T[kept_T], self.offset_T[kept_T])


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
    suspects: list[tuple[int, int]] = field(default_factory=list)
    """Of each rejected record, as far as it can be told: the user's key, the event time in ms."""
    erased: int = 0
    """Records left out because their user was erased."""
    first_append_ms: int = 0
    """When the oldest of the records was appended, by the clock of the log."""
    last_append_ms: int = 0
    places: Places = field(default_factory=lambda: Places.none())
    """Where each event stood; empty in blocks that were not read from a stream."""
    described: list[Item] = field(default_factory=list)
    """What the block says of items, in its order: of several about one the last counts."""
    shown_at: list[tuple[int, int]] = field(default_factory=list)
    """Partition and offset of each impression; empty where nobody said."""

    def without(self, erased: Erased) -> "Block":
        """The block as if those records were not in it; they are counted, and leave no payload.

        Offsets, watermark and the number of records stay: erasing moves nobody else.
        """
        if not len(erased):
            return self
        shown = [(key_of(one.user), _milliseconds(one.at)) for one in self.impressions]
        kept_T = ~erased.covers(self.events.user_T, self.events.at_ms_T)
        kept_I, kept_R = (~erased.covers(*_columns(pairs)) for pairs in (shown, self.suspects))
        gone = sum(int((~kept).sum()) for kept in (kept_T, kept_I, kept_R))
        if not gone:
            return self
        return replace(
            self,
            events=self.events.where(kept_T),
            requests=list(compress(self.requests, kept_T)),
            items=list(compress(self.items, kept_T)),
            impressions=list(compress(self.impressions, kept_I)),
            rejected=list(compress(self.rejected, kept_R)),
            suspects=list(compress(self.suspects, kept_R)),
            erased=self.erased + gone,
            places=self.places.where(kept_T),
            shown_at=list(compress(self.shown_at, kept_I)),
        )


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
        self._places: tuple[list[int], ...] = ([], [])
        self._requests: list[str | None] = []
        self._items: list[Id] = []
        self._impressions: list[Impression] = []
        self._shown_at: list[tuple[int, int]] = []
        self._rejected: list[Rejected] = []
        self._suspects: list[tuple[int, int]] = []
        self._described: list[Item] = []
        self.records = 0
        self.append_ms: list[int] = []
        """Append times of the records, rejected or not."""

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
        self._places[0].append(source[1])
        self._places[1].append(record.offset)
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
        self._shown_at.append((source[1], record.offset))
        return at_ms

    def item(self, record: Record, source: Source, decode: Callable[[bytes], Any]) -> int:
        """Add what one record says of an item; return its event time, 0 if it was rejected.

        However old it is: the latest of an item counts, and an item may rarely change.
        """
        try:
            item: Item = decode(record.payload) if record.payload else of_tombstone(record.key)
            check_item(item)
            at_ms = record.append_ms if item.at is None else _milliseconds(item.at)
            if at_ms - record.append_ms > self._future_ms:
                raise self._too_early(at_ms, record.append_ms)
        except ItemError as error:
            self._reject(record, source, _Refused(error.kind, str(error)))
            return 0
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, _Refused) as error:
            self._reject(record, source, error)
            return 0
        self._described.append(item)
        return at_ms

    def build(self, offsets: Offsets, watermark_ms: int) -> Block:
        """The block; the builder is used up."""
        events = Events(*(np.array(column, np.int64) for column in self._columns))
        return Block(
            events, self._requests, self._items, self._impressions, self._rejected, offsets,
            watermark_ms, self.records, self._suspects, described=self._described,
            first_append_ms=min(self.append_ms, default=0),
            last_append_ms=max(self.append_ms, default=0),
            places=Places(*(np.array(column, np.int64) for column in self._places)),
            shown_at=self._shown_at,
        )  # fmt: skip

    def _checked_time(self, at: float, append_ms: int) -> int:
        problem = time_problem(at)
        if problem:
            raise _Refused("bad_time", f"at = {at!r} {problem}")
        at_ms = _milliseconds(at)
        if at_ms - append_ms > self._future_ms:
            raise self._too_early(at_ms, append_ms)
        if append_ms - at_ms > self._late_ms:
            raise _Refused("too_late", f"at is {(append_ms - at_ms) / 1000:.0f} s in the past")
        return at_ms

    @staticmethod
    def _too_early(at_ms: int, append_ms: int) -> _Refused:
        return _Refused("too_early", f"at is {(at_ms - append_ms) / 1000:.0f} s in the future")

    def _reject(self, record: Record, source: Source, error: Exception) -> None:
        if isinstance(error, _Refused):
            reason, detail = error.reason, error.detail
        elif isinstance(error, msgspec.ValidationError):
            reason, detail = "bad_field", str(error)
        else:
            reason, detail = "bad_json", str(error)
        shown = record.payload[:MAX_TEXT_SHOWN].decode(errors="replace")
        self._suspects.append(_suspect(record))
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


class _Owner(msgspec.Struct):
    """What tells whose a record is, however wrong the rest of it."""

    user: Id
    at: msgspec.Raw = msgspec.Raw(b"null")


def _suspect(record: Record) -> tuple[int, int]:
    """User key (RESERVED_KEY: nobody's) and event time in ms, append time where that is earlier or
    there is none to believe."""
    try:
        owner = msgspec.json.decode(record.payload, type=_Owner)
        user = _checked_key(owner.user, "user")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, _Refused):
        return RESERVED_KEY, record.append_ms
    try:
        at = msgspec.json.decode(owner.at, type=float)
    except msgspec.MsgspecError:
        return user, record.append_ms
    at_ms = record.append_ms if time_problem(at) else _milliseconds(at)
    return user, min(at_ms, record.append_ms)


def _columns(pairs: list[tuple[int, int]]) -> tuple[Longs, Longs]:
    columns = np.array(pairs, np.int64).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


def _milliseconds(at: float) -> int:
    return round(at * 1000)


def _hash(identifier: str) -> int:
    return (xxhash.xxh3_64_intdigest(identifier.encode()) >> 1) or 1
