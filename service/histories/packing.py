"""Users' histories as flat words and back: what a history is outside of this process.

A value of a user is 64-bit words: a header of five, the hashes of the last action ids, oldest
first, and the last events, two words each, oldest first.

    0  kind, and from bit 32 the number of ids, from bit 48 the number of events
    1  source: the partition that the last event came from, as its keeper numbers it
    2  position: the offset there behind which nothing has been taken in
    3  ordinal of the user's next event
    4  time of the latest event, ms

`source` and `position` belong to whoever keeps the value: `pack` leaves them 0.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from service.histories.rings import (
    COUNT,
    EVENT_WORDS,
    EVENTS,
    HELD,
    ID_WORDS,
    IDS,
    LAST_MS,
    LINE,
    Longs,
    laid,
    ring_at,
)

HEADER = 5
"""Words before the ids."""
KIND, SOURCE, POSITION, NEXT, LATEST_MS = range(HEADER)
IDS_BIT, EVENTS_BIT = 32, 48
KIND_OF_FORMAT_1 = int.from_bytes(b"Fh\x01\x00", "little")


@dataclass(frozen=True)
class Packed:
    """Values of M users, one behind the other; of users without a history nothing."""

    words: Longs
    bounds: Longs
    """Value m is `words[bounds[m]:bounds[m + 1]]`."""

    @property
    def at_M(self) -> Longs:
        """Where each value begins."""
        return self.bounds[:-1]

    def field(self, word: int) -> Longs:
        """One word of each header, 0 of users without a history."""
        held_M = np.diff(self.bounds) > 0
        found_M = np.zeros(len(held_M), np.int64)
        found_M[held_M] = self.words[self.at_M[held_M] + word]
        return found_M

    def stamp(self, source_M: Longs, position_M: Longs) -> None:
        """Write into each header how far the log is contained."""
        held_M = np.diff(self.bounds) > 0
        at_M = self.at_M[held_M]
        self.words[at_M + SOURCE] = source_M[held_M]
        self.words[at_M + POSITION] = position_M[held_M]


def packed(lines: Longs, memory: tuple[Longs, ...], owner_M: Longs) -> Packed:
    """The values of owners, -1 for a user without."""
    bounds = np.zeros(len(owner_M) + 1, np.int64)
    _measure(lines, owner_M, bounds)
    words = np.zeros(bounds[-1], np.int64)
    _pack(memory, owner_M, words, bounds)
    return Packed(words, bounds)


@njit(cache=True, nogil=True)
def unpack(memory, capacity, recent_ids, owner_M, words, at_M):
    """Values into the rings of new owners."""
    lines = memory[2]
    for m in range(len(owner_M)):
        line, at = owner_M[m] * LINE, at_M[m]
        ids, events = _sizes(words[at])
        lines[line + LAST_MS] = words[at + LATEST_MS]
        at += HEADER
        _fill(memory, line + IDS, ID_WORDS, recent_ids, ids, ids, words, at)
        at += ids * ID_WORDS
        _fill(
            memory, line + EVENTS, EVENT_WORDS, capacity, events, words[at_M[m] + NEXT], words, at
        )


@njit(cache=True, nogil=True)
def _fill(memory, ring, width, capacity, records, count, words, at):
    """Give an empty ring its records, the last `capacity` of them; count: ordinal after them."""
    held, lines = min(records, capacity), memory[2]
    at += (records - held) * width
    base, mask = laid(memory, ring, width, held)
    for ordinal in range(count - held, count):
        for f in range(width):
            memory[0][base + (ordinal & mask) * width + f] = words[at]
            at += 1
    lines[ring + HELD], lines[ring + COUNT] = held, count


@njit(cache=True, nogil=True)
def _sizes(kind):
    """Ids and events of a value."""
    return (kind >> IDS_BIT) & 0xFFFF, kind >> EVENTS_BIT


@njit(cache=True, nogil=True)
def _measure(lines, owner_M, bounds):
    for m in range(len(owner_M)):
        at, size = owner_M[m] * LINE, 0
        if owner_M[m] >= 0 and lines[at + EVENTS + COUNT] > 0:
            size = HEADER + lines[at + IDS + HELD] + EVENT_WORDS * lines[at + EVENTS + HELD]
        bounds[m + 1] = bounds[m] + size


@njit(cache=True, nogil=True)
def _pack(memory, owner_M, words, bounds):
    held, _, lines, _ = memory
    for m in range(len(owner_M)):
        if bounds[m] == bounds[m + 1]:
            continue
        line, at = owner_M[m] * LINE, bounds[m]
        ids, events = lines[line + IDS + HELD], lines[line + EVENTS + HELD]
        words[at + KIND] = KIND_OF_FORMAT_1 | ids << IDS_BIT | events << EVENTS_BIT
        words[at + NEXT] = lines[line + EVENTS + COUNT]
        words[at + LATEST_MS] = lines[line + LAST_MS]
        at = _copy(held, lines, line + IDS, ID_WORDS, words, at + HEADER)
        _copy(held, lines, line + EVENTS, EVENT_WORDS, words, at)


@njit(cache=True, nogil=True)
def _copy(held, lines, ring, width, words, at):
    """The records of a ring, oldest first; where the next word goes."""
    if lines[ring + HELD] == 0:
        return at
    base, mask = ring_at(lines, ring, width)
    for ordinal in range(lines[ring + COUNT] - lines[ring + HELD], lines[ring + COUNT]):
        for f in range(width):
            words[at] = held[base + (ordinal & mask) * width + f]
            at += 1
    return at
