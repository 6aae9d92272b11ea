"""The items a truth is ranked against: clicked by anyone in the last hours, or ever. I items.

Before an event at time t, an item is active if an earlier event of the stream has it, at t - H or
later. The window slides with the stream, so following it costs one step per event.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks.protocol.events import Events, Ints

FOREVER_MS = 2**62
_TAIL, _HEAD, _LENGTH = 0, 1, 2


class Window(NamedTuple):
    """The sliding window: events [tail, head) are inside, list_I[:length] their items."""

    count_I: Ints
    place_I: Ints
    """Where in list_I an item stands, -1 for an item that is not active."""
    list_I: Ints
    cursor: Ints
    """tail, head, length."""


class Masks(NamedTuple):
    """C candidates of B events: every item that is active at one of them at least."""

    candidates_C: Ints
    active_BC: NDArray[np.bool_]
    unseen_BC: NDArray[np.bool_]
    truth_B: Ints


class ActiveItems:
    """Follows a stream forwards; a step backwards starts again at the first event."""

    def __init__(self, events: Events, active_ms: int = FOREVER_MS) -> None:
        self._events = events
        self._active_ms = active_ms
        self._window = _empty(events.items)
        self._column_I = np.full(events.items, -1, np.int64)

    def masks(self, events_B: Ints) -> Masks:
        """What is active at each event, and of that what its user never had.

        events_B: rising positions in the stream. truth_B is the column of an event's own item, -1
        where that is not active.
        """
        if len(events_B) and events_B[0] < self._window.cursor[_HEAD]:
            self._window = _empty(self._events.items)
        events = self._events
        columns = (events.item_T, events.at_ms_T, events.previous_T)
        return Masks(*_masks(self._window, self._column_I, *columns, self._active_ms, events_B))


def _empty(items: int) -> Window:
    nowhere_I = np.full(items, -1, np.int64)
    return Window(np.zeros(items, np.int64), nowhere_I, nowhere_I.copy(), np.zeros(3, np.int64))


@njit(cache=True, nogil=True)
def _advance(window: Window, item_T: Ints, at_ms_T: Ints, active_ms: int, event: int) -> None:
    """Make the window what it is just before `event`."""
    count_I, place_I, list_I, cursor = window
    for position in range(cursor[_HEAD], event):
        item = item_T[position]
        count_I[item] += 1
        if count_I[item] == 1:
            place_I[item] = cursor[_LENGTH]
            list_I[cursor[_LENGTH]] = item
            cursor[_LENGTH] += 1
    cursor[_HEAD] = event
    while cursor[_TAIL] < event and at_ms_T[event] - at_ms_T[cursor[_TAIL]] > active_ms:
        item = item_T[cursor[_TAIL]]
        count_I[item] -= 1
        if count_I[item] == 0:
            _drop(place_I, list_I, cursor, item)
        cursor[_TAIL] += 1


@njit(cache=True, nogil=True)
def _drop(place_I: Ints, list_I: Ints, cursor: Ints, item: int) -> None:
    """Take an item off the list; the last one moves to its place."""
    cursor[_LENGTH] -= 1
    last = list_I[cursor[_LENGTH]]
    list_I[place_I[item]] = last
    place_I[last] = place_I[item]
    place_I[item] = -1


@njit(cache=True, nogil=True)
def _masks(
    window: Window,
    column_I: Ints,
    item_T: Ints,
    at_ms_T: Ints,
    previous_T: Ints,
    active_ms: int,
    events_B: Ints,
) -> tuple[Ints, NDArray[np.bool_], NDArray[np.bool_], Ints]:
    """column_I is scratch: -1 everywhere on entry and on return."""
    if len(events_B) > 0:
        _advance(window, item_T, at_ms_T, active_ms, events_B[0])
    span = events_B[-1] - events_B[0] if len(events_B) > 0 else 0
    most = min(window.cursor[_LENGTH] + span, len(column_I))
    candidates_C = np.empty(most, np.int64)
    active_BC = np.zeros((len(events_B), most), np.bool_)
    truth_B = np.full(len(events_B), -1, np.int64)
    width = 0
    for b in range(len(events_B)):
        _advance(window, item_T, at_ms_T, active_ms, events_B[b])
        for place in range(window.cursor[_LENGTH]):
            item = window.list_I[place]
            if column_I[item] < 0:
                column_I[item] = width
                candidates_C[width] = item
                width += 1
            active_BC[b, column_I[item]] = True
        if window.place_I[item_T[events_B[b]]] >= 0:
            truth_B[b] = column_I[item_T[events_B[b]]]
    unseen_BC = active_BC.copy()
    for b in range(len(events_B)):
        _forget_seen(unseen_BC[b], column_I, item_T, previous_T, events_B[b])
    column_I[candidates_C[:width]] = -1
    return candidates_C[:width], active_BC[:, :width], unseen_BC[:, :width], truth_B


@njit(cache=True, nogil=True)
def _forget_seen(
    unseen_C: NDArray[np.bool_], column_I: Ints, item_T: Ints, previous_T: Ints, event: int
) -> None:
    earlier = previous_T[event]
    while earlier >= 0:
        if column_I[item_T[earlier]] >= 0:
            unseen_C[column_I[item_T[earlier]]] = False
        earlier = previous_T[earlier]
