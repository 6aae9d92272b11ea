"""Linear probing in shards, deletion by backward shift (Knuth, TAOCP 3, algorithm 6.4 R).

A slot is two words: the mixed key and the row, so that a hit costs one cache line. Mixing is a
bijection, shifted so that only the reserved key becomes 0, which marks an empty slot. The highest
byte of the mixed key is its shard, its low bits are its home in the shard.

The cache line of a key's home is asked for while the `_AHEAD` keys before it are looked at. Shared
by all functions:

- `words`, `slots_S`, `room_S`: see `shards`
- `keys_R`, `rows_end`; `free`, `free_end`: the key of each row; the stack of free rows; their ends
- `ahead`: a ring with the mixed key and the home of the next keys
- indices are unsigned, for which numba needs no test of wrapping
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from kernels.key_index.protocol import RESERVED_KEY
from kernels.key_index.shards import SHARDS, Words, most_keys
from kernels.lanes import prefetch
from kernels.mixing import mix64

Int64s = npt.NDArray[np.int64]

FREE_ROW = np.int64(RESERVED_KEY)
"""What `keys_R` says of a free row."""

_AHEAD = 64
_RING = np.uint64(_AHEAD - 1)
_EMPTY, _ONE, _TWO = np.uint64(0), np.uint64(1), np.uint64(2)
_RESERVED_MIX = np.uint64(mix64(np.uint64(2**63)))
_SHARD_SHIFT, _SLOT_SHIFT = np.uint64(56), np.uint64(4)
_SHARDS = np.uint64(SHARDS)
_CHUNK = 64


@njit(cache=True, nogil=True)
def first_reserved(keys: Int64s) -> int:
    """The position of the first reserved key, or N."""
    for i in range(len(keys)):
        if keys[i] == FREE_ROW:
            return i
    return len(keys)


@njit(cache=True, nogil=True)
def lookup(
    part: int, parts: int, words: Words, slots_S: Words, keys: Int64s, rows: Int64s
) -> int:  # fmt: skip
    """Fill one part of `rows`; the position of the part's first reserved key, or N."""
    start, end = len(keys) * part // parts, len(keys) * (part + 1) // parts
    ahead = _ask_first(words, slots_S, keys, start, end)
    for i in range(start, end):
        word, slot = _asked(ahead, i)
        _ask(words, slots_S, keys, i + _AHEAD, end, ahead)
        if word == _EMPTY:
            return i
        at = _TWO * _find(words, slots_S, word, slot)
        rows[np.uint64(i)] = np.int64(words[at + _ONE]) if words[at] == word else np.int64(-1)
    return len(keys)


@njit(cache=True, nogil=True)
def insert(
    words: Words, slots_S: Words, room_S: Int64s,
    keys_R: Int64s, rows_end: int, free: Int64s, free_end: int,
    keys: Int64s, rows: Int64s, is_new: Any,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Insert the keys. The position of the first whose shard could not grow, or N; the ends
    afterwards; and how many times a shard has grown."""
    grown = 0
    ahead = _ask_first(words, slots_S, keys, 0, len(keys))
    for i in range(len(keys)):
        word, slot = _asked(ahead, i)
        _ask(words, slots_S, keys, i + _AHEAD, len(keys), ahead)
        slot = _find(words, slots_S, word, slot)
        is_new[i] = words[_TWO * slot] != word
        if is_new[i]:
            if room_S[word >> _SHARD_SHIFT] == 0:
                if not _grow(words, slots_S, room_S, word >> _SHARD_SHIFT):
                    return i, rows_end, free_end, grown
                grown += 1
                for later in range(i + 1, i + _AHEAD + 1):
                    _ask(words, slots_S, keys, later, len(keys), ahead)
                slot = _find(words, slots_S, word, _home(slots_S, word))
            if free_end > 0:
                free_end -= 1
                row = free[free_end]
            else:
                row = rows_end
                rows_end += 1
            keys_R[np.uint64(row)] = keys[np.uint64(i)]
            _fill(words, room_S, slot, word, row)
        rows[np.uint64(i)] = np.int64(words[_TWO * slot + _ONE])
    return len(keys), rows_end, free_end, grown


@njit(cache=True, nogil=True)
def remove(
    words: Words, slots_S: Words, room_S: Int64s, keys_R: Int64s, free: Int64s, free_end: int,
    keys: Int64s, rows: Int64s,
) -> int:  # fmt: skip
    """Remove the keys; the end of `free` afterwards."""
    ahead = _ask_first(words, slots_S, keys, 0, len(keys))
    for i in range(len(keys)):
        word, slot = _asked(ahead, i)
        _ask(words, slots_S, keys, i + _AHEAD, len(keys), ahead)
        slot = _find(words, slots_S, word, slot)
        row = np.int64(-1)
        if words[_TWO * slot] == word:
            row = np.int64(words[_TWO * slot + _ONE])
            _close_gap(words, slots_S[word >> _SHARD_SHIFT], slot)
            room_S[word >> _SHARD_SHIFT] += 1
            keys_R[np.uint64(row)] = FREE_ROW
            free[free_end] = row
            free_end += 1
        rows[np.uint64(i)] = row
    return free_end


@njit(cache=True, nogil=True)
def count(keys_R: Int64s) -> Int64s:
    """Keys of each shard."""
    keys_S = np.zeros(SHARDS, np.int64)
    for row in range(len(keys_R)):
        if keys_R[row] != FREE_ROW:
            keys_S[_mixed(keys_R[row]) >> _SHARD_SHIFT] += 1
    return keys_S


@njit(cache=True, nogil=True)
def place(words: Words, slots_S: Words, room_S: Int64s, keys_R: Int64s) -> None:
    """Fill empty shards that have room for all with the keys of the rows."""
    ahead = _ask_first(words, slots_S, keys_R, 0, len(keys_R))
    for row in range(len(keys_R)):
        word, slot = _asked(ahead, row)
        _ask(words, slots_S, keys_R, row + _AHEAD, len(keys_R), ahead)
        if word != _EMPTY:
            _fill(words, room_S, _find(words, slots_S, word, slot), word, row)


@njit(cache=True, nogil=True)
def key_at(keys_R: Int64s, rows: Int64s, keys: Int64s) -> int:
    """Fill `keys`; the position of the first row that is not among R, or N."""
    for i in range(len(rows)):
        row = np.uint64(rows[i])
        if row >= np.uint64(len(keys_R)):
            return i
        keys[i] = keys_R[row]
    return len(rows)


@njit(cache=True, nogil=True)
def _mixed(key: Any) -> Any:
    """The word that stands for a key."""
    return mix64(np.uint64(key)) ^ _RESERVED_MIX


@njit(cache=True, nogil=True)
def _home(slots_S: Words, word: Any) -> Any:
    """The slot at which the search for a word begins."""
    shard = word >> _SHARD_SHIFT
    slots = slots_S[shard]
    return slots * (_SHARDS + shard) + (word & (slots - _ONE))


@njit(cache=True, nogil=True)
def _next(slots: Any, slot: Any) -> Any:
    """The slot behind this one, in a circle: a shard begins at a multiple of its slots."""
    mask = slots - _ONE
    return (slot & ~mask) | ((slot + _ONE) & mask)


@njit(cache=True, nogil=True)
def _ask_first(words: Words, slots_S: Words, keys: Int64s, start: int, end: int) -> Words:
    """A ring with the first of the keys start..end-1, all asked for."""
    ahead = np.empty(2 * _AHEAD, np.uint64)
    for i in range(start, start + _AHEAD):
        _ask(words, slots_S, keys, i, end, ahead)
    return ahead


@njit(cache=True, nogil=True)
def _ask(words: Words, slots_S: Words, keys: Int64s, i: int, end: int, ahead: Words) -> None:
    """Put key i into the ring and ask for its home, unless it is past the end."""
    if i < end:
        entry = _TWO * (np.uint64(i) & _RING)
        word = _mixed(keys[np.uint64(i)])
        home = _home(slots_S, word)
        ahead[entry], ahead[entry + _ONE] = word, home
        prefetch(np.uint64(words.ctypes.data) + (home << _SLOT_SHIFT))


@njit(cache=True, nogil=True)
def _asked(ahead: Words, i: int) -> tuple[Any, Any]:
    """Key i's word and home."""
    entry = _TWO * (np.uint64(i) & _RING)
    return ahead[entry], ahead[entry + _ONE]


@njit(cache=True, nogil=True)
def _find(words: Words, slots_S: Words, word: Any, slot: Any) -> Any:
    """Slot of the word, from its home on, or the empty one where it would go (there is one)."""
    slots = slots_S[word >> _SHARD_SHIFT]
    while words[_TWO * slot] != word and words[_TWO * slot] != _EMPTY:
        slot = _next(slots, slot)
    return slot


@njit(cache=True, nogil=True)
def _fill(words: Words, room_S: Int64s, slot: Any, word: Any, row: Any) -> None:
    words[_TWO * slot] = word
    words[_TWO * slot + _ONE] = np.uint64(row)
    room_S[word >> _SHARD_SHIFT] -= 1


@njit(cache=True, nogil=True)
def _close_gap(words: Words, slots: Any, gap: Any) -> None:
    """Shift back every pair behind the gap that its search would no longer reach."""
    mask = slots - _ONE
    slot = _next(slots, gap)
    while words[_TWO * slot] != _EMPTY:
        home = words[_TWO * slot]
        if ((slot - home) & mask) >= ((slot - gap) & mask):
            words[_TWO * gap] = words[_TWO * slot]
            words[_TWO * gap + _ONE] = words[_TWO * slot + _ONE]
            gap = slot
        slot = _next(slots, slot)
    words[_TWO * gap] = _EMPTY


@njit(cache=True, nogil=True)
def _grow(words: Words, slots_S: Words, room_S: Int64s, shard: Any) -> bool:
    """Move the shard to its place of twice the size; False where the addresses end."""
    slots = slots_S[shard]
    start = slots * (_SHARDS + shard)
    if _TWO * _TWO * (start + slots) > np.uint64(len(words)):
        return False
    slots_S[shard] = larger = _TWO * slots
    room_S[shard] += most_keys(shard, larger) - most_keys(shard, slots)
    full = np.empty(_CHUNK, np.uint64)
    chunk = min(slots, np.uint64(_CHUNK))
    for first in range(start, start + slots, chunk):
        # Which slots are full cannot be foreseen: they are gathered without branches first.
        filled = np.uint64(0)
        for slot in range(first, first + chunk):
            full[filled] = slot
            filled += np.uint64(words[_TWO * slot] != _EMPTY)
        for i in range(filled):
            _move(words, slots_S, full[i])
    return True


@njit(cache=True, nogil=True)
def _move(words: Words, slots_S: Words, slot: Any) -> None:
    word = words[_TWO * slot]
    to = _find(words, slots_S, word, _home(slots_S, word))
    words[_TWO * to] = word
    words[_TWO * to + _ONE] = words[_TWO * slot + _ONE]
