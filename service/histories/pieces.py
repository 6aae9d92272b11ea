"""One growing memory of 64-bit words, handed out in pieces of 8, 16, 32, ... words.

A freed piece is handed out again whole, or halved until it fits where no smaller one is free, so
that what long rings leave behind serves short ones. Free pieces of a size form a list through
their own first words. Where a piece lies decides nothing but speed. One thread at a time.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from kernels.reserved import Pages, memory_bytes, page_bytes

Longs = npt.NDArray[np.int64]

WORDS = 8
"""Words of the smallest piece: a cache line."""
SIZES = 13
"""Sizes of pieces: 8 to 32,768 words."""

USED, LIVE, FREE = 0, 1, 2
"""Places in the book: words below the end, words handed out, first free piece of each size."""

_WORD_BYTES = 8


class Pieces:
    """The memory and its book. `words` and `book` are what the compiled functions work on."""

    def __init__(self) -> None:
        self._pages = Pages(memory_bytes())
        self.words: Longs = self._pages.all_bytes.view(np.int64)
        self.book: Longs = np.full(FREE + SIZES, -1, np.int64)
        self.book[[USED, LIVE]] = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the pages below the end."""
        return self._page_end() * _WORD_BYTES

    @property
    def live_words(self) -> int:
        """Words handed out."""
        return int(self.book[LIVE])

    @property
    def free_words(self) -> int:
        """Words below the end that are not handed out."""
        return int(self.book[USED] - self.book[LIVE])

    def compact(self, names: Longs, at_P: Longs) -> None:
        """Move all pieces to the bottom, in their order, and give the rest back to the system.

        `names[at_P]` are the names of all pieces handed out; they are written anew.
        """
        end = self._page_end()
        _slide(self.words, self.book, names, at_P[np.argsort(names[at_P])])
        if (new_end := self._page_end()) < end:
            self._pages.give_back(new_end * _WORD_BYTES, end * _WORD_BYTES)

    def _page_end(self) -> int:
        page = page_bytes() // _WORD_BYTES
        return int(-(-self.book[USED] // page) * page)


# A piece is named by one positive number: its first word times 16, plus 1, plus log2(words / 8).


@njit(cache=True, nogil=True)
def first_word(piece):
    return piece >> 4


@njit(cache=True, nogil=True)
def words_of(piece):
    """Words of a piece; 0 of no piece (0)."""
    return (WORDS << ((piece & 15) - 1)) if piece else 0


@njit(cache=True, nogil=True)
def take(words, book, size):
    """A piece of `size` words, not cleared. MemoryError beyond the machine's memory."""
    kind = 0
    while WORDS << kind < size:
        kind += 1
    found = kind
    while found < SIZES and book[FREE + found] < 0:
        found += 1
    if found < SIZES:
        first = book[FREE + found]
        book[FREE + found] = words[first]
        while found > kind:
            found -= 1
            _free(words, book, first + (WORDS << found), found)
    else:
        first = book[USED]
        if first + size > len(words):
            raise MemoryError("histories exceed this machine's memory; set store.max_bytes")
        book[USED] += size
    book[LIVE] += size
    return first << 4 | (kind + 1)


@njit(cache=True, nogil=True)
def give(words, book, piece):
    """Make a piece free."""
    _free(words, book, first_word(piece), (piece & 15) - 1)
    book[LIVE] -= words_of(piece)


@njit(cache=True, nogil=True)
def _free(words, book, first, kind):
    words[first] = book[FREE + kind]
    book[FREE + kind] = first


@njit(cache=True, nogil=True)
def _slide(words, book, names, at_P):
    end = 0
    for at in at_P:
        piece = names[at]
        first, size = first_word(piece), words_of(piece)
        if first != end:
            for i in range(size):
                words[end + i] = words[first + i]
        names[at] = end << 4 | (piece & 15)
        end += size
    book[USED] = end
    book[FREE:] = -1
