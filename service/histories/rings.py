"""Two rings for every owner: its last events, two words each, and its last ids, one word each.

A ring starts with 8 places and doubles when it is full, up to its capacity and as long as there is
room; else its newest record overwrites the oldest. So a ring of the full length for everyone
(thirty times more on real data) is never paid. All that is known of an owner is one line of the
cache. One thread at a time.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from kernels.lanes import prefetch
from kernels.reserved import Reserved
from service.histories.pieces import Pieces, first_word, give, take, words_of

FIRST = 8
"""Records of a new ring."""

LINE = 8
"""Words of an owner: the time of its latest event, its two rings, and one to fill the line."""
LAST_MS, EVENTS, IDS = 0, 1, 4
PIECE, HELD, COUNT = 0, 1, 2
"""Places in a ring: its memory (0: none), the records it holds, the ordinal of the next one.

The record with ordinal o lies in place o modulo the ring's size.
"""
EVENT_WORDS, ID_WORDS = 2, 1

LINE_BYTES = 64
WORD_BYTES = 10
"""What a word of a ring is charged: 8, and a quarter for free memory between the rings."""
FIRST_BYTES = FIRST * (EVENT_WORDS + ID_WORDS) * WORD_BYTES
"""What an owner's two rings are charged at their first size, also while there are no ids."""

GROWN, ROOM, SHORTENED = 0, 1, 2
"""Places in the tally: words of all rings beyond their first size; words by which rings may still
grow; records overwritten for want of them."""

_BOUNDLESS = 2**62
_WORTH_COMPACTING = 1 << 20
"""Free words (8 MiB)."""

Longs = npt.NDArray[np.int64]
Shapes = npt.NDArray[np.int16]


class Rings:
    """The rings of owners 0, 1, 2, ... `memory` is what the compiled functions work on."""

    def __init__(self) -> None:
        self._lines = Reserved(np.int64, LINE)
        self._pieces = Pieces()
        self.tally = np.zeros(3, np.int64)

    @property
    def memory(self) -> tuple[Longs, Longs, Longs, Longs]:
        """Words and book of the pieces, the owners' lines, the tally."""
        return self._pieces.words, self._pieces.book, self.lines, self.tally

    @property
    def lines(self) -> Longs:
        """The lines of all owners, flat."""
        return self._lines.flat

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use, whole pages."""
        return self._lines.nbytes + self._pieces.nbytes

    def charged_bytes(self, owners: int) -> int:
        """What the rings are charged if so many owners have any; lines not counted."""
        return owners * FIRST_BYTES + int(self.tally[GROWN]) * WORD_BYTES

    @property
    def live_events(self) -> int:
        """Events held by all owners."""
        return int(self.lines[EVENTS + HELD :: LINE].sum())

    @property
    def shortened(self) -> int:
        """Records overwritten for want of room."""
        return int(self.tally[SHORTENED])

    @shortened.setter
    def shortened(self, records: int) -> None:
        self.tally[SHORTENED] = records

    def allow(self, room_bytes: float) -> None:
        """From now on rings may grow until they are charged so much more."""
        self.tally[ROOM] = min(max(room_bytes, 0), _BOUNDLESS) // WORD_BYTES

    def reserve(self, owners: int) -> None:
        """Make owners 0 .. owners-1 exist (without records)."""
        self._lines.extend(owners)

    def clear(self, owner_M: Longs) -> None:
        """Forget everything of the owners and make their memory free."""
        _clear(self.memory, owner_M)

    def tidy(self) -> None:
        """Compact if more than a fifth of the memory, and 8 MiB, are free.

        It takes as long as copying the rings; a quarter of that must have been freed since it was
        done last.
        """
        if self._pieces.free_words > max(self._pieces.live_words // 4, _WORTH_COMPACTING):
            self.compact()

    def compact(self) -> None:
        """Gather all rings at the bottom of the memory; the rest goes back to the system."""
        self._pieces.compact(self.lines, _holders(self.lines))

    def shapes(self) -> Shapes:
        """Size and records held of both rings of each owner, [owners, 4]."""
        shape_R4 = np.empty((self._lines.length, 4), np.int16)
        _shapes(self.lines, shape_R4)
        return shape_R4

    def lay(self, shape_R4: Shapes) -> None:
        """Give each (new) owner rings of the sizes in `shapes`, without records."""
        self.reserve(len(shape_R4))
        _lay(self.memory, shape_R4)

    def trim(self, shape_R4: Shapes) -> bool:
        """Forget what `shapes` did not hold, the oldest records first; whether all held as many."""
        return bool(_trim(self.memory, shape_R4))


@njit(cache=True, nogil=True)
def push(memory, at, width, capacity, ordinal, first_field, second_field):
    """Append a record of `width` words (1 or 2) to the ring at line word `at`.

    If the ordinal is not the next one, the ring is emptied first.
    """
    words, _, lines, _ = memory
    held = lines[at + HELD] if ordinal == lines[at + COUNT] else 0
    size = words_of(lines[at + PIECE]) // width
    if held == size and size < capacity:
        size = _grown(memory, at, width, size)
    spot = first_word(lines[at + PIECE]) + (ordinal & (size - 1)) * width
    words[spot] = first_field
    if width == 2:
        words[spot + 1] = second_field
    lines[at + HELD] = min(held + 1, size)
    lines[at + COUNT] = ordinal + 1


@njit(cache=True, nogil=True)
def _grown(memory, at, width, size):
    """Give a full ring twice the places if there is room; the places it has now."""
    words, book, lines, tally = memory
    if size == 0:
        lines[at + PIECE] = take(words, book, FIRST * width)
        return FIRST
    if size * width > tally[ROOM]:
        tally[SHORTENED] += 1
        return size
    tally[ROOM] -= size * width
    tally[GROWN] += size * width
    piece, larger = lines[at + PIECE], take(words, book, 2 * size * width)
    source, target = first_word(piece), first_word(larger)
    for ordinal in range(lines[at + COUNT] - size, lines[at + COUNT]):
        for f in range(width):
            place = (ordinal & (2 * size - 1)) * width + f
            words[target + place] = words[source + (ordinal & (size - 1)) * width + f]
    give(words, book, piece)
    lines[at + PIECE] = larger
    return 2 * size


@njit(cache=True, nogil=True)
def laid(memory, at, width, records):
    """Give an empty ring memory for so many records; where it is, as `ring_at` says it."""
    words, book, lines, tally = memory
    size = FIRST
    while size < records:
        size *= 2
    if records:
        lines[at + PIECE] = take(words, book, size * width)
        tally[GROWN] += (size - FIRST) * width
    return ring_at(lines, at, width)


@njit(cache=True, nogil=True)
def ring_at(lines, at, width):
    """First word of a ring's memory and its size less one, by which ordinals become places."""
    piece = lines[at + PIECE]
    return first_word(piece), words_of(piece) // width - 1


@njit(cache=True, nogil=True)
def holds_id(memory, at, value):
    """Whether the ring of ids at line word `at` holds this one."""
    words, _, lines, _ = memory
    base, mask = ring_at(lines, at, ID_WORDS)
    count = lines[at + COUNT]
    for ordinal in range(count - lines[at + HELD], count):
        if words[base + (ordinal & mask)] == value:
            return True
    return False


@njit(cache=True, nogil=True)
def ask_for_line(lines, owner):
    """Ask for an owner's line ahead of its use; any owner is allowed."""
    prefetch(np.uint64(lines.ctypes.data + owner * LINE_BYTES))


@njit(cache=True, nogil=True)
def ask_for_rings(memory, owner):
    """Ask for where an owner's next records go, and where its ids begin."""
    words, _, lines, _ = memory
    at = owner * LINE
    base, mask = ring_at(lines, at + EVENTS, EVENT_WORDS)
    place = (lines[at + EVENTS + COUNT] & mask) * EVENT_WORDS
    prefetch(np.uint64(words.ctypes.data + (base + place) * 8))
    prefetch(np.uint64(words.ctypes.data + first_word(lines[at + IDS + PIECE]) * 8))


@njit(cache=True, nogil=True)
def grown_words(lines, at):
    """Words beyond their first size of the rings of the owner whose line begins at `at`."""
    events, ids = words_of(lines[at + EVENTS + PIECE]), words_of(lines[at + IDS + PIECE])
    return max(0, events - FIRST * EVENT_WORDS) + max(0, ids - FIRST * ID_WORDS)


@njit(cache=True, nogil=True)
def _clear(memory, owner_M):
    words, book, lines, tally = memory
    for owner in owner_M:
        at = owner * LINE
        tally[GROWN] -= grown_words(lines, at)
        for ring in (EVENTS, IDS):
            if lines[at + ring + PIECE]:
                give(words, book, lines[at + ring + PIECE])
        lines[at : at + LINE] = 0


@njit(cache=True, nogil=True)
def _holders(lines):
    """Which words of the lines name a piece."""
    at_P, found = np.empty(len(lines) // LINE * 2, np.int64), 0
    for line in range(0, len(lines), LINE):
        for at in (line + EVENTS + PIECE, line + IDS + PIECE):
            if lines[at]:
                at_P[found] = at
                found += 1
    return at_P[:found]


@njit(cache=True, nogil=True)
def _shapes(lines, shape_R4):
    for owner in range(len(shape_R4)):
        at = owner * LINE
        shape_R4[owner, 0] = words_of(lines[at + EVENTS + PIECE]) // EVENT_WORDS
        shape_R4[owner, 1] = lines[at + EVENTS + HELD]
        shape_R4[owner, 2] = words_of(lines[at + IDS + PIECE]) // ID_WORDS
        shape_R4[owner, 3] = lines[at + IDS + HELD]


@njit(cache=True, nogil=True)
def _lay(memory, shape_R4):
    words, book, lines, tally = memory
    for owner in range(len(shape_R4)):
        for column, ring, width in ((0, EVENTS, EVENT_WORDS), (2, IDS, ID_WORDS)):
            size = np.int64(shape_R4[owner, column])
            if size:
                lines[owner * LINE + ring + PIECE] = take(words, book, size * width)
        tally[GROWN] += grown_words(lines, owner * LINE)


@njit(cache=True, nogil=True)
def _trim(memory, shape_R4):
    words, book, lines, _ = memory
    for owner in range(len(shape_R4)):
        for column, ring in ((0, EVENTS), (2, IDS)):
            at, held = owner * LINE + ring, np.int64(shape_R4[owner, column + 1])
            if lines[at + HELD] < held:
                return False
            lines[at + HELD] = held
            if shape_R4[owner, column] == 0 and lines[at + PIECE]:
                give(words, book, lines[at + PIECE])
                lines[at + PIECE] = 0
    return True
