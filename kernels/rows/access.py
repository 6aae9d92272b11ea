"""Rows read and written as they are, in numba.

Indices are unsigned: numba tests signed ones for wrapping. `parts` threads share a call, each does
part `part`.
"""

from typing import Any

import numpy as np
from numba import njit

from kernels.lanes import copy_row
from kernels.rows import records
from kernels.rows.ahead import prefetch_row
from kernels.rows.columns import CHANGED, NEVER_MS

_AHEAD = np.uint64(16)
"""Rows asked for before they are needed."""

_FLOAT, _WORD = np.uint64(4), np.uint64(8)
"""Bytes of a float32; marks in a 64-bit word."""

_ZERO, _ONE = np.uint64(0), np.uint64(1)
_EMPTY_MS = np.int64(NEVER_MS)
_CHANGED_IN_WORD = np.uint64(0x0101010101010101 * CHANGED)


@njit(cache=True, nogil=True)
def first_outside(rows: Any, end: Any) -> int:
    """Position of the first row number outside 0 .. end-1 (negative ones are huge), or N."""
    largest = _ZERO
    for i in range(len(rows)):
        largest = max(largest, np.uint64(rows[i]))
    if largest < end:
        return len(rows)
    for i in range(len(rows)):
        if np.uint64(rows[i]) >= end:
            return i
    return len(rows)


@njit(cache=True, nogil=True)
def share(part: Any, parts: Any, items: Any) -> Any:
    """First and end of the part's range of items."""
    return np.uint64(part * items // parts), np.uint64((part + 1) * items // parts)


@njit(cache=True, nogil=True)
def gather(part: Any, parts: Any, table: Any, width: Any, rows: Any, out: Any) -> None:
    """out[i] = table[rows[i]], for rows of `width` numbers."""
    first, end = share(part, parts, len(rows))
    table_at, out_at = np.uint64(table.ctypes.data), np.uint64(out.ctypes.data)
    row_bytes = _FLOAT * width
    for i in range(first, end):
        if i + _AHEAD < end:
            prefetch_row(table_at + np.uint64(rows[i + _AHEAD]) * row_bytes, row_bytes)
        copy_row(out_at + i * row_bytes, table_at + np.uint64(rows[i]) * row_bytes, width)


@njit(cache=True, nogil=True)
def scatter(table: Any, width: Any, rows: Any, values: Any) -> None:
    """table[rows[i]] = values[i], for rows of `width` numbers."""
    table_at, values_at = np.uint64(table.ctypes.data), np.uint64(values.ctypes.data)
    row_bytes = _FLOAT * width
    for i in range(np.uint64(len(rows))):
        copy_row(table_at + np.uint64(rows[i]) * row_bytes, values_at + i * row_bytes, width)


@njit(cache=True, nogil=True)
def gather_column(column: Any, rows: Any, out: Any) -> None:
    """out[i] = column[rows[i]], for a column of single numbers."""
    for i in range(np.uint64(len(rows))):
        out[i] = column[np.uint64(rows[i])]


@njit(cache=True, nogil=True)
def scatter_column(column: Any, rows: Any, values: Any) -> None:
    """column[rows[i]] = values[i], for a column of single numbers."""
    for i in range(np.uint64(len(rows))):
        column[np.uint64(rows[i])] = values[i]


@njit(cache=True, nogil=True)
def clear(vectors: Any, moments: Any, wide: Any, marks: Any, width: Any, rows: Any) -> None:
    """Make rows empty. `moments` may have no rows; `wide` is the records as int64."""
    for i in range(np.uint64(len(rows))):
        row = np.uint64(rows[i])
        for place in range(row * width, (row + _ONE) * width):
            vectors[place] = 0
        if len(moments):
            for place in range(row * width, (row + _ONE) * width):
                moments[place] = 0
        record = row * records.WIDE
        for place in range(record, record + records.WIDE):
            wide[place] = 0
        wide[record + records.LAST_SEEN] = _EMPTY_MS
        marks[row] = 0


@njit(cache=True, nogil=True)
def changed(part: Any, parts: Any, marks: Any, words: Any) -> Any:
    """The changed ones among the part's rows, ascending; `words` are the marks, 8 in each.

    In words that hold one, rows are written without asking, into one place more than there are:
    which have changed cannot be predicted.
    """
    first, end = share(part, parts, len(words))
    count = _ZERO
    for row in range(first * _WORD, end * _WORD):
        count += np.uint64(marks[row] & CHANGED)
    rows, found = np.empty(count + _ONE, np.int64), _ZERO
    for word in range(first, end):
        if words[word] & _CHANGED_IN_WORD:
            for row in range(word * _WORD, (word + _ONE) * _WORD):
                rows[found] = row
                found += np.uint64(marks[row] & CHANGED)
    return rows[:count]
