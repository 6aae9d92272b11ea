"""Histories in the memory of one process; the trainer and every server keep their own.

One value per user: the last events as 16-byte records (item key; time and action code), the
hashes of its last action ids, and the ordinal of its next event. A gap longer than the history's
time-to-live restarts the user at the event after it, ids and ordinals included, as if never seen.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from pydantic import Field, field_validator

from kernels.key_index import key_index
from service.histories.rings import Longs, Rings, grown, holds, push
from service.settings import Section

RECENT_IDS = 64
"""An action whose id is among its user's last 64 is a duplicate; older repeats count as new."""
FOREVER_MS = 2**62
UNNUMBERED = -1
"""Stands for an ordinal that `append` has yet to give."""

Fresh = npt.NDArray[np.bool_]


class HistorySettings(Section):
    """Section [histories]."""

    ttl_seconds: float | None = Field(90 * 86_400, gt=0)
    capacity: int = Field(512, ge=64, le=16_384, description="events kept per user, a power of two")

    @field_validator("capacity")
    @classmethod
    def _doubles(cls, capacity: int) -> int:
        if capacity & (capacity - 1):
            raise ValueError("must be a power of two, such as 512")
        return capacity

    @property
    def ttl_ms(self) -> int:
        """Time-to-live in milliseconds."""
        return FOREVER_MS if self.ttl_seconds is None else int(self.ttl_seconds * 1000)


@dataclass(frozen=True)
class Events:
    """T events of any users in stream order, one array per field."""

    user_T: Longs
    item_T: Longs
    action_T: Longs
    at_ms_T: Longs
    id_T: Longs
    """Hash of the action's id, 0 where the action had none."""

    def __len__(self) -> int:
        return len(self.user_T)

    def where(self, kept_T: Fresh) -> "Events":
        """The events whose flag is set."""
        if kept_T.all():
            return self
        fields = (self.user_T, self.item_T, self.action_T, self.at_ms_T, self.id_T)
        return Events(*(field[kept_T] for field in fields))


@dataclass(frozen=True)
class Accepted:
    """What an append took: the events that are no duplicates, with their ordinals."""

    events: Events
    ordinal_T: Longs
    fresh_T: Fresh
    """Of the events handed in, which are no duplicates."""

    @property
    def duplicates(self) -> int:
        """How many were left out."""
        return len(self.fresh_T) - len(self.events)


@dataclass(frozen=True)
class Histories:
    """The last events of B users, packed, oldest first."""

    offsets: Longs
    item_T: Longs
    action_T: Longs
    at_ms_T: Longs
    count_B: Longs
    """Ordinal of each user's next event; the last one returned has ordinal count - 1."""


class LocalHistories:
    """Append events, read the last ones, forget users whose time has come. One thread at a time."""

    def __init__(self, settings: HistorySettings) -> None:
        self.settings = settings
        self._users = key_index("numba")
        self._events = Rings(2, settings.capacity)
        self._ids = Rings(1, RECENT_IDS)
        self._last_ms = np.zeros(0, np.int64)
        self._key = np.zeros(0, np.int64)
        self.cursor = 0
        """Where the expiry sweep goes on."""

    def __len__(self) -> int:
        return len(self._users)

    @property
    def live_events(self) -> int:
        """Events that a read can still return, over all users."""
        return self._events.live_records

    @property
    def nbytes(self) -> int:
        """Bytes of everything that grows."""
        own = self._last_ms.nbytes + self._key.nbytes
        return own + self._users.nbytes + self._events.nbytes + self._ids.nbytes

    def append(self, events: Events, watermark_ms: int) -> Accepted:
        """Add events in stream order; those whose id their user used lately are left out."""
        self.expire_users(events.user_T, watermark_ms)
        owner_T = self._owners(events.user_T)
        ordinal_T = np.full(len(events), UNNUMBERED)
        fresh_T = self._number(owner_T, events, self.settings.ttl_ms, ordinal_T)
        events, ordinal_T = events.where(fresh_T), ordinal_T[fresh_T]
        self._events.push(owner_T[fresh_T], ordinal_T, _records(events))
        return Accepted(events, ordinal_T, fresh_T)

    def restore(self, events: Events, ordinal_T: Longs) -> None:
        """Append events that were accepted before, with the ordinals they had then; ordinal 0
        (re)starts its user."""
        owner_T = self._owners(events.user_T)
        self._number(owner_T, events, FOREVER_MS, ordinal_T.copy())
        self._events.push(owner_T, ordinal_T, _records(events))

    def read(self, user_B: Longs, most: int, now_ms: int = 0) -> Histories:
        """The last `most` events of each user. Changes nothing.

        Unknown users have none, nor have those whose time is over at `now_ms`.
        """
        owner_B = self._users.lookup(torch.from_numpy(user_B)).numpy()
        known_B = owner_B >= 0
        known_B[known_B] = now_ms - self._last_ms[owner_B[known_B]] <= self.settings.ttl_ms
        offsets, records = self._events.read(owner_B[known_B], most)
        length_B = np.zeros(len(user_B), np.int64)
        length_B[known_B] = np.diff(offsets)
        count_B = np.zeros(len(user_B), np.int64)
        count_B[known_B] = self._events.count[owner_B[known_B]]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(length_B)])
        return Histories(ends, records[:, 0], records[:, 1] & 255, records[:, 1] >> 8, count_B)

    def expire(self, watermark_ms: int, budget: int) -> Longs:
        """Forget users unseen for the time-to-live, looking at `budget` users; return their keys.

        A call per block visits everyone once in `users / budget` blocks: that is the lateness.
        """
        end = self._users.rows_end
        if self.settings.ttl_seconds is None or not end:
            return np.zeros(0, np.int64)
        visited = (self.cursor + np.arange(min(budget, end))) % end
        self.cursor = int((self.cursor + len(visited)) % end)
        known = self._events.count[visited] > 0
        due = visited[known & (watermark_ms - self._last_ms[visited] > self.settings.ttl_ms)]
        keys = self._key[due]
        self.forget(keys)
        return keys

    def expire_users(self, user_T: Longs, watermark_ms: int) -> Longs:
        """Forget those of the users whose time has come, and return them, each once.

        Asked before anything depends on a user, it makes the place of the sweep unimportant.
        """
        owner_T = self._users.lookup(torch.from_numpy(user_T)).numpy()
        known_T = owner_T >= 0
        due_T = watermark_ms - self._last_ms[owner_T[known_T]] > self.settings.ttl_ms
        due: Longs = np.unique(user_T[known_T][due_T])
        self.forget(due)
        return due

    def forget(self, user_B: Longs) -> None:
        """Drop the users' histories and reuse their memory."""
        owner_B = self._users.remove(torch.from_numpy(user_B)).numpy()
        owner_B = owner_B[owner_B >= 0]
        self._events.clear(owner_B)
        self._ids.clear(owner_B)
        self._last_ms[owner_B] = 0

    def _owners(self, user_T: Longs) -> Longs:
        rows, _ = self._users.insert(torch.from_numpy(user_T))
        owner_T: Longs = rows.numpy()
        if self._users.rows_end > len(self._key):
            size = max(self._users.rows_end, 2 * len(self._key), 64)
            self._key, self._last_ms = grown(self._key, size), grown(self._last_ms, size)
            self._events.reserve(size)
            self._ids.reserve(size)
        self._key[owner_T] = user_T
        return owner_T

    def _number(self, owner_T: Longs, events: Events, ttl_ms: int, ordinal_T: Longs) -> Fresh:
        """Fill in the ordinals of UNNUMBERED events; return which events are no duplicates."""
        fresh_T, done = np.ones(len(owner_T), np.bool_), 0
        while True:
            done = _number(
                owner_T, events.at_ms_T, events.id_T, ttl_ms, done, self._last_ms,
                self._events.count, self._ids.arrays(), ordinal_T, fresh_T,
            )  # fmt: skip
            if done == len(owner_T):
                return fresh_T
            self._ids.grow()


def _records(events: Events) -> Longs:
    stamp_T = events.at_ms_T << 8 | events.action_T
    return np.stack([events.item_T, stamp_T], axis=1)


@njit(cache=True, nogil=True)
def _number(owner, at_ms, ids, ttl_ms, done, last_ms, count, recent, ordinal, fresh):
    """Events one by one: restart, duplicate or not, ordinal. `recent` are the rings of ids; returns
    the event at which they must grow first, or the end."""
    id_count = recent[5]
    for t in range(done, len(owner)):
        u = owner[t]
        if ordinal[t] == 0 or (count[u] > 0 and at_ms[t] - last_ms[u] > ttl_ms):
            count[u], id_count[u], last_ms[u] = 0, 0, 0
        if ordinal[t] == UNNUMBERED and holds(u, ids[t], *recent):
            fresh[t] = False
            continue
        if ids[t] != 0:
            one = ids[t : t + 1].reshape(1, 1)
            if push(owner[t : t + 1], id_count[u : u + 1], one, 0, *recent) == 0:
                return t
        if ordinal[t] == UNNUMBERED:
            ordinal[t] = count[u]
        count[u] = ordinal[t] + 1
        last_ms[u] = max(last_ms[u], at_ms[t])
    return len(owner)
