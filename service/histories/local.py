"""Histories in the memory of one process; the trainer and every server keep their own.

One value per user: the last events as 16-byte records (item key; time and action code), the
hashes of its last action ids, and the ordinal of its next event. A gap longer than the history's
time-to-live restarts the user at the event after it, ids and ordinals included, as if never seen.

Under a budget that has no room left, a ring that is full stays as long as it is, so that its user
keeps fewer events than `capacity` until there is room; and a new user gets room by the forgetting
of others, the longest unseen first, or none (`CapSettings.when_full`). A batch of events decides
at its start, for all its new users together. An event whose user finds no room is no duplicate
but is not kept: it has ordinal 0, as if its user restarted with it, for that is what a reader
finds of such a user.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kernels.key_index import key_index
from service.errors import VersionError
from service.histories.keeping import UNNUMBERED, copy_out, measure, take_in
from service.histories.leaving import FOREVER_MS, Flags, are_overdue, longest_unseen, overdue
from service.histories.packing import Packed, packed, unpack
from service.histories.rings import FIRST_BYTES, LINE_BYTES, Longs, Rings
from service.store.budget import FREE_BYTES, INDEX_BYTES, KEY_BYTES, Budget

if TYPE_CHECKING:
    from service.histories.segments import Segment
    from service.histories.settings import HistorySettings

RECENT_IDS = 64
"""An action whose id is among its user's last 64 is a duplicate; older repeats count as new."""
OWNER_BYTES = LINE_BYTES + INDEX_BYTES + KEY_BYTES + FREE_BYTES
"""What is charged for each user that was ever held at the same time, beside the rings."""

Fresh = Flags

_NOBODY: Longs = np.zeros(0, np.int64)
_COUNTS = ("cursor", "eviction_cursor", "evictions", "evicted", "refused", "shortened")
_SLICE = 65_536
"""Events after which memory that rings have left is looked at."""
_AT_ONCE = 128
"""One in so many users is forgotten at least, when others need their room."""


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
    evicted_M: Longs = field(default_factory=lambda: np.zeros(0, np.int64))
    """Users without a history from here on: those forgotten to make room, and those of these
    events who found none."""

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

    def __init__(self, settings: "HistorySettings", budget: Budget | None = None) -> None:
        self.settings = settings
        self.evicted = self.refused = 0
        """Users forgotten to make room; events not kept because their user found none."""
        self.cursor = 0
        """Where the expiry sweep goes on."""
        self.evictions = self.eviction_cursor = 0
        """Searches for room so far, and where the next one begins."""
        self._users = key_index("numba")
        self._rings = Rings()
        self._budget = budget
        if budget is not None:
            budget.join(self)

    def __len__(self) -> int:
        return len(self._users)

    @property
    def live_events(self) -> int:
        """Events that a read can still return, over all users."""
        return self._rings.live_events

    @property
    def shortened(self) -> int:
        """Events and ids overwritten early because their ring found no room to grow."""
        return self._rings.shortened

    @shortened.setter
    def shortened(self, records: int) -> None:
        self._rings.shortened = records

    @property
    def nbytes(self) -> int:
        """Bytes of everything that grows, as the system counts them."""
        return self._users.nbytes + self._rings.nbytes

    @property
    def charged_bytes(self) -> int:
        """What the budget is charged: a function of `state()` and the segments beside it."""
        return OWNER_BYTES * self._users.rows_end + self._rings.charged_bytes(len(self))

    def state(self) -> dict[str, Tensor]:
        """What later results depend on beside the segments: under a limit where users are kept and
        how long their rings are, without one nothing."""
        if math.isinf(self._left()):
            return {}
        counts = {name: torch.tensor([getattr(self, name)]) for name in _COUNTS}
        index = {f"index.{name}": tensor for name, tensor in self._users.state().items()}
        return {**index, **counts, "rings": torch.from_numpy(self._rings.shapes())}

    def load(self, state: dict[str, Tensor], segments: Iterable["Segment"]) -> None:
        """Become (while still empty) the histories that returned `state` when all `segments` had
        been taken. Raises VersionError if these do not belong together."""
        if not state:
            for segment in segments:
                segment.restore(self)
            return
        shape_R4 = state["rings"].numpy()
        self._users.load({name: state[f"index.{name}"] for name in ("keys", "free")})
        self._rings.lay(shape_R4)
        self._rings.allow(0)
        for segment in segments:
            # Who is forgotten in the end is not in the index; who came back restarts.
            owner_T = self._lookup(segment.events.user_T)
            self._take_in(owner_T, segment.events, FOREVER_MS, segment.ordinal_T.copy())
        if not self._rings.trim(shape_R4):
            raise VersionError(
                "the history segments hold fewer events than the checkpoint says; they are of "
                "different versions: restore the version directory from a backup"
            )
        for name in _COUNTS:
            setattr(self, name, int(state[name]))

    def append(self, events: Events, watermark_ms: int) -> Accepted:
        """Add events in stream order; those whose id their user used lately are left out."""
        self.expire_users(events.user_T, watermark_ms)
        owner_T, evicted_M = self._owners(events.user_T)
        self._rings.allow(self._left())
        ordinal_T = np.full(len(events), UNNUMBERED)
        fresh_T = self._take_in(owner_T, events, self.settings.ttl_ms, ordinal_T)
        return Accepted(events.where(fresh_T), ordinal_T[fresh_T], fresh_T, evicted_M)

    def restore(self, events: Events, ordinal_T: Longs) -> None:
        """Append events that were accepted before, with the ordinals they had then, whatever the
        budget; ordinal 0 (re)starts its user."""
        self._rings.allow(math.inf)
        self._take_in(self._insert(events.user_T), events, FOREVER_MS, ordinal_T.copy())

    def read(self, user_B: Longs, most: int, now_ms: int = 0) -> Histories:
        """The last `most` events of each user. Changes nothing.

        Unknown users have none, nor have those whose time is over at `now_ms`.
        """
        owner_B = self._lookup(user_B)
        offsets, count_B = np.zeros(len(user_B) + 1, np.int64), np.empty(len(user_B), np.int64)
        measure(self._rings.lines, owner_B, most, now_ms - self.settings.ttl_ms, offsets, count_B)
        item_T, action_T, at_ms_T = (np.empty(offsets[-1], np.int64) for _ in range(3))
        copy_out(self._rings.memory, owner_B, offsets, item_T, action_T, at_ms_T)
        return Histories(offsets, item_T, action_T, at_ms_T, count_B)

    def pack(self, user_M: Longs) -> Packed:
        """Everything that later results depend on, user by user; nothing of unknown users."""
        return packed(self._rings.lines, self._rings.memory, self._lookup(user_M))

    def unpack(self, user_M: Longs, values: Packed) -> None:
        """Become, for these different users, the histories that returned `values`, whatever the
        budget. Of longer ones the last `capacity` events stay."""
        self.forget(user_M)
        held_M = np.diff(values.bounds) > 0
        self._rings.allow(math.inf)
        owner_M = self._insert(user_M[held_M])
        capacity, at_M = self.settings.capacity, values.at_M[held_M]
        unpack(self._rings.memory, capacity, RECENT_IDS, owner_M, values.words, at_M)

    def expire(self, watermark_ms: int, budget: int) -> Longs:
        """Forget users unseen for the time-to-live, looking at `budget` users; return their keys.

        Who is forgotten is so at the latest by the `ceil(users / budget)`-th call with a watermark
        past its time, `users` being the most that were ever held at once.
        """
        end = self._users.rows_end
        if self.settings.ttl_seconds is None or not end:
            return np.zeros(0, np.int64)
        looked = min(budget, end)
        before_ms = watermark_ms - self.settings.ttl_ms
        owner_M = overdue(self._rings.lines, self.cursor % end, looked, before_ms)
        self.cursor = (self.cursor + looked) % end
        return self._forget_owners(owner_M)

    def expire_users(self, user_T: Longs, watermark_ms: int) -> Longs:
        """Forget those of the users whose time has come, and return them, each once.

        Asked before anything depends on a user, it makes the place of the sweep unimportant.
        """
        if self.settings.ttl_seconds is None:
            return np.zeros(0, np.int64)
        before_ms = watermark_ms - self.settings.ttl_ms
        due_T = are_overdue(self._rings.lines, self._lookup(user_T), before_ms)
        due: Longs = np.unique(user_T[due_T])
        if len(due):
            self.forget(due)
        return due

    def forget(self, user_B: Longs) -> None:
        """Drop the users' histories and reuse their memory."""
        owner_B = self._users.remove(torch.from_numpy(user_B)).numpy()
        self._rings.clear(owner_B[owner_B >= 0])
        self._rings.tidy()

    def _forget_owners(self, owner_M: Longs) -> Longs:
        """Forget users by their numbers; their keys."""
        key_M: Longs = self._users.keys().numpy()[owner_M]
        if len(key_M):
            self.forget(key_M)
        return key_M

    def _lookup(self, user_T: Longs) -> Longs:
        owner_T: Longs = self._users.lookup(torch.from_numpy(user_T)).numpy()
        return owner_T

    def _insert(self, user_T: Longs) -> Longs:
        owner_T: Longs = self._users.insert(torch.from_numpy(user_T))[0].numpy()
        self._rings.reserve(self._users.rows_end)
        return owner_T

    def _left(self) -> float:
        return math.inf if self._budget is None else self._budget.left

    def _owners(self, user_T: Longs) -> tuple[Longs, Longs]:
        """Number of each event's user, -1 where there is no room; all users without a history."""
        if self._welcome() >= len(user_T):
            return self._insert(user_T), _NOBODY
        owner_T = self._lookup(user_T)
        new_M = _by_appearance(user_T[owner_T < 0])
        if not len(new_M):
            return owner_T, _NOBODY
        evicted_M = self._make_room(len(new_M), owner_T[owner_T >= 0])
        welcome = self._welcome()
        self._insert(new_M[:welcome])
        owner_T = self._lookup(user_T)
        self.refused += int((owner_T < 0).sum())
        return owner_T, np.concatenate([evicted_M, new_M[welcome:]])

    def _welcome(self) -> int:
        """How many new users there is room for."""
        left, free = self._left(), self._users.rows_end - len(self)
        if left == math.inf:
            return 2**62
        if left <= free * FIRST_BYTES:
            return max(0, int(left // FIRST_BYTES))
        return free + int((left - free * FIRST_BYTES) // (FIRST_BYTES + OWNER_BYTES))

    def _make_room(self, users: int, spared_M: Longs) -> Longs:
        """Forget others until there is room for so many new users, if that is wanted. Nobody is
        forgotten where forgetting all would not help."""
        gone, most = [_NOBODY], self._left() + self._rings.charged_bytes(len(self))
        if self._budget is None or self._budget.when_full == "refuse" or most < FIRST_BYTES:
            return _NOBODY
        spared_R = np.zeros(self._users.rows_end, np.bool_)
        spared_R[spared_M] = True
        while self._welcome() < users:
            wanted_bytes = int(users * FIRST_BYTES - self._budget.left)
            owner_M, self.eviction_cursor = longest_unseen(
                self._rings.lines, spared_R, self.evictions, self.eviction_cursor,
                wanted_bytes, 1 + len(self) // _AT_ONCE,
            )  # fmt: skip
            if not len(owner_M):
                break
            self.evictions += 1
            self.evicted += len(owner_M)
            gone.append(self._forget_owners(owner_M))
        return np.concatenate(gone)

    def _take_in(self, owner_T: Longs, events: Events, ttl_ms: int, ordinal_T: Longs) -> Fresh:
        """Fill in UNNUMBERED ordinals, keep the events, and tell which are no duplicates."""
        fresh_T = np.ones(len(owner_T), np.bool_)
        columns = (events.item_T, events.action_T, events.at_ms_T, events.id_T)
        given = [owner_T, *map(np.ascontiguousarray, columns), ordinal_T, fresh_T]
        for first in range(0, len(owner_T), _SLICE):
            part = (column[first : first + _SLICE] for column in given)
            take_in(self._rings.memory, self.settings.capacity, RECENT_IDS, ttl_ms, *part)
            self._rings.tidy()
        return fresh_T


def _by_appearance(user_T: Longs) -> Longs:
    """Each user once, in order of first appearance."""
    users, first = np.unique(user_T, return_index=True)
    return users[np.argsort(first)]
