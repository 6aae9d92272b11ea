"""Who leaves: users whose time has come and, where memory is short, those longest unseen.

Owners are looked at in the order of their numbers, round and round from a cursor on.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from kernels.mixing import GOLDEN, mix64
from service.histories.rings import (
    COUNT,
    EVENTS,
    FIRST_BYTES,
    LAST_MS,
    LINE,
    WORD_BYTES,
    Longs,
    grown_words,
)

FOREVER_MS = 2**62
"""Time-to-live of what never leaves by age."""
SAMPLES = 4096
SHARE = 16
"""One in so many sampled users, those longest unseen, is at or below the threshold."""
_MOST_DRAWS = 16 * SAMPLES

Flags = npt.NDArray[np.bool_]


def overdue(lines: Longs, cursor: int, looked: int, before_ms: int) -> Longs:
    """Of the next owners from the cursor on, `looked` of them, those not seen since `before_ms`."""
    owner_M = np.empty(looked, np.int64)
    return owner_M[: _overdue(lines, cursor, before_ms, owner_M)]


def are_overdue(lines: Longs, owner_T: Longs, before_ms: int) -> Flags:
    """Which of the owners (-1: none) were not seen since `before_ms`."""
    due_T = np.zeros(len(owner_T), np.bool_)
    _are_overdue(lines, owner_T, before_ms, due_T)
    return due_T


def longest_unseen(
    lines: Longs, spared_R: Flags, draw: int, cursor: int, wanted_bytes: int, wanted_users: int
) -> tuple[Longs, int]:
    """Owners to forget, and where the search goes on.

    Of 4,096 owners sampled by the number `draw` (of all, where there are not more), the 1/16
    longest unseen give the threshold. From the cursor on, owners at or below it are taken until
    they free the bytes that are wanted and are as many as are wanted, or everyone was looked at.
    Spared owners are neither sampled nor taken.
    """
    sample = np.empty(SAMPLES, np.int64)
    sample = np.sort(sample[: _sample(lines, spared_R, np.uint64(draw), sample)])
    owner_M = np.empty(len(spared_R), np.int64)
    if not len(sample):
        return owner_M[:0], cursor
    most_ms = sample[(len(sample) - 1) // SHARE]
    wanted = (wanted_bytes, wanted_users)
    found, cursor = _unseen(lines, spared_R, most_ms, cursor, *wanted, owner_M)
    return owner_M[:found], cursor


@njit(cache=True, nogil=True)
def _overdue(lines, cursor, before_ms, owner_M):
    owner, found = cursor, 0
    for _ in range(len(owner_M)):
        at = owner * LINE
        if lines[at + EVENTS + COUNT] and lines[at + LAST_MS] < before_ms:
            owner_M[found] = owner
            found += 1
        owner = owner + 1 if at + LINE < len(lines) else 0
    return found


@njit(cache=True, nogil=True)
def _are_overdue(lines, owner_T, before_ms, due_T):
    for t in range(len(owner_T)):
        due_T[t] = owner_T[t] >= 0 and lines[owner_T[t] * LINE + LAST_MS] < before_ms


@njit(cache=True, nogil=True)
def _sample(lines, spared_R, draw, last_ms_M):
    """Fill in the times of live owners that are not spared, some of them twice; how many."""
    owners, found, start = np.uint64(len(spared_R)), 0, mix64(draw)
    everyone = len(spared_R) <= len(last_ms_M)
    for n in range(len(spared_R) if everyone else _MOST_DRAWS):
        owner = np.int64(n)
        if not everyone:
            owner = np.int64(mix64(start + np.uint64(n) * GOLDEN) % owners)
        at = owner * LINE
        if lines[at + EVENTS + COUNT] and not spared_R[owner]:
            last_ms_M[found] = lines[at + LAST_MS]
            found += 1
            if found == len(last_ms_M):
                break
    return found


@njit(cache=True, nogil=True)
def _unseen(lines, spared_R, most_ms, cursor, wanted_bytes, wanted_users, owner_M):
    owner, found, freed = cursor, 0, 0
    for _ in range(len(spared_R)):
        if freed >= wanted_bytes and found >= wanted_users:
            break
        at = owner * LINE
        if lines[at + EVENTS + COUNT] and lines[at + LAST_MS] <= most_ms and not spared_R[owner]:
            owner_M[found] = owner
            found += 1
            freed += FIRST_BYTES + WORD_BYTES * grown_words(lines, at)
        owner = owner + 1 if owner + 1 < len(spared_R) else 0
    return found, owner
