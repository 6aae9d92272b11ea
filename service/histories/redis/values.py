"""The bytes of one user's value, and a history read from them (docs/formats.md has the layout)."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from service.errors import FreshetError
from service.histories.leaving import Flags
from service.histories.local import RECENT_IDS, Histories
from service.histories.packing import (
    EVENTS_BIT,
    HEADER,
    IDS_BIT,
    KIND_OF_FORMAT_1,
    LATEST_MS,
    NEXT,
    Packed,
)
from service.histories.rings import EVENT_WORDS, Longs
from service.histories.settings import HistorySettings

WORD_BYTES = 8
HEADER_BYTES = HEADER * WORD_BYTES
EVER_MS = -(2**62)
"""A time before every event."""


class ValueDamaged(FreshetError):
    """What lies under a user's key is no value of this format."""


def split(values: Packed) -> list[bytes]:
    """The bytes of each value, empty for users without a history."""
    whole = values.words.astype("<i8", copy=False).tobytes()
    return [whole[a:b] for a, b in pairwise((values.bounds * WORD_BYTES).tolist())]


def join(values: Sequence[bytes | None]) -> tuple[Packed, Flags]:
    """Values from outside as one, and which of them are damaged: those count as absent."""
    damaged_M = np.fromiter((not _sound(value) for value in values), np.bool_, len(values))
    whole = [b"" if bad else value or b"" for value, bad in zip(values, damaged_M, strict=True)]
    bounds = np.zeros(len(values) + 1, np.int64)
    np.cumsum([len(value) // WORD_BYTES for value in whole], out=bounds[1:])
    words = np.frombuffer(b"".join(whole), "<i8").astype(np.int64)
    return Packed(words, bounds), damaged_M


def history_of(
    value: bytes | None, settings: HistorySettings, now_ms: int = 0, erased_ms: int = EVER_MS
) -> Histories:
    """What `LocalHistories.read` returns of all that is kept of this one user.

    erased_ms: event time up to which the user is erased; the value may not know of it yet. Raises
    ValueDamaged.
    """
    if not value:
        return _made(np.zeros((0, EVENT_WORDS), np.int64), 0)
    if not _sound(value):
        raise ValueDamaged(f"{len(value)} bytes beginning with {value[:HEADER_BYTES].hex()}")
    words = np.frombuffer(value, "<i8").astype(np.int64, copy=False)
    if words[LATEST_MS] < now_ms - settings.ttl_ms:
        return _made(words[:0].reshape(0, EVENT_WORDS), 0)
    event_T2 = words[HEADER + _ids(value) :].reshape(-1, EVENT_WORDS)
    kept_T = event_T2[:, 1] >> 8 > erased_ms
    if kept_T.all():
        return _made(event_T2[-settings.capacity :], int(words[NEXT]))
    event_T2 = event_T2[kept_T]
    return _made(event_T2[-settings.capacity :], len(event_T2))


def _made(event_T2: Longs, count: int) -> Histories:
    offsets = np.array([0, len(event_T2)], np.int64)
    item_T, stamp_T = event_T2[:, 0].copy(), event_T2[:, 1]
    return Histories(offsets, item_T, stamp_T & 255, stamp_T >> 8, np.array([count], np.int64))


def _ids(value: bytes) -> int:
    return int.from_bytes(value[IDS_BIT // 8 : EVENTS_BIT // 8], "little")


def _sound(value: bytes | None) -> bool:
    """Whether this is a whole value, or none."""
    if not value:
        return True
    kind, ids = value[: IDS_BIT // 8], _ids(value)
    events = int.from_bytes(value[EVENTS_BIT // 8 : WORD_BYTES], "little")
    size = (HEADER + ids + EVENT_WORDS * events) * WORD_BYTES
    ordinal = int.from_bytes(value[NEXT * WORD_BYTES : (NEXT + 1) * WORD_BYTES], "little")
    return (
        kind == KIND_OF_FORMAT_1.to_bytes(IDS_BIT // 8, "little")
        and len(value) == size
        and 1 <= events <= ordinal
        and ids <= RECENT_IDS
    )
