"""Events into users' rings and out of them. Owners are users by number, -1 for a user without."""

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
    ask_for_line,
    ask_for_rings,
    holds_id,
    push,
    ring_at,
)

UNNUMBERED = -1
"""Stands for an ordinal that `take_in` has yet to give."""

_AHEAD = 8
"""Events by which memory is asked for before it is needed."""


@njit(cache=True, nogil=True)
def take_in(
    memory, capacity, recent_ids, ttl_ms, owner_T, item_T, action_T, at_ms_T, id_T,
    ordinal_T, fresh_T,
):  # fmt: skip
    """Events one by one: restart, duplicate or not, ordinal, rings.

    Fills in the ordinals that are UNNUMBERED and which of these events are duplicates. Ordinal 0
    restarts an owner, and so does a gap of more than `ttl_ms`. An event without an owner is left
    out; its ordinal is 0.
    """
    _, _, lines, _ = memory
    for t in range(len(owner_T)):
        _ask(memory, owner_T, t)
        if owner_T[t] < 0:
            ordinal_T[t] = 0
            continue
        at = owner_T[t] * LINE
        late = lines[at + EVENTS + COUNT] > 0 and at_ms_T[t] - lines[at + LAST_MS] > ttl_ms
        if ordinal_T[t] == 0 or late:
            _restart(lines, at)
        if ordinal_T[t] == UNNUMBERED:
            if id_T[t] and holds_id(memory, at + IDS, id_T[t]):
                fresh_T[t] = False
                continue
            ordinal_T[t] = lines[at + EVENTS + COUNT]
        stamp = at_ms_T[t] << 8 | action_T[t]
        push(memory, at + EVENTS, EVENT_WORDS, capacity, ordinal_T[t], item_T[t], stamp)
        if id_T[t]:
            ordinal = lines[at + IDS + COUNT]
            push(memory, at + IDS, ID_WORDS, recent_ids, ordinal, id_T[t], 0)
        lines[at + LAST_MS] = max(lines[at + LAST_MS], at_ms_T[t])


@njit(cache=True, nogil=True)
def measure(lines, owner_B, most, since_ms, offsets, count_B):
    """Offsets [B+1] of the last `most` events of each owner, and the ordinal of its next one.

    Owners not seen since `since_ms` have none.
    """
    for b in range(len(owner_B)):
        if b + 2 * _AHEAD < len(owner_B):
            ask_for_line(lines, owner_B[b + 2 * _AHEAD])
        at, held = owner_B[b] * LINE, 0
        count_B[b] = 0
        if owner_B[b] >= 0 and lines[at + LAST_MS] >= since_ms:
            held = min(lines[at + EVENTS + HELD], most)
            count_B[b] = lines[at + EVENTS + COUNT]
        offsets[b + 1] = offsets[b] + held


@njit(cache=True, nogil=True)
def copy_out(memory, owner_B, offsets, item_T, action_T, at_ms_T):
    """The events that `measure` counted, oldest first."""
    words, _, lines, _ = memory
    for b in range(len(owner_B)):
        if offsets[b] == offsets[b + 1]:
            continue
        at = owner_B[b] * LINE + EVENTS
        base, mask = ring_at(lines, at, EVENT_WORDS)
        behind = lines[at + COUNT] - offsets[b + 1]
        for t in range(offsets[b], offsets[b + 1]):
            place = base + ((behind + t) & mask) * EVENT_WORDS
            item_T[t], stamp = words[place], words[place + 1]
            action_T[t], at_ms_T[t] = stamp & 255, stamp >> 8


@njit(cache=True, nogil=True)
def _ask(memory, owner_T, t):
    if t + 2 * _AHEAD < len(owner_T):
        ask_for_line(memory[2], owner_T[t + 2 * _AHEAD])
    if t + _AHEAD < len(owner_T) and owner_T[t + _AHEAD] >= 0:
        ask_for_rings(memory, owner_T[t + _AHEAD])


@njit(cache=True, nogil=True)
def _restart(lines, at):
    """As if nothing had come yet; the rings keep their sizes."""
    lines[at + LAST_MS] = 0
    for ring in (EVENTS, IDS):
        lines[at + ring + HELD] = lines[at + ring + COUNT] = 0
