"""An empty Redis gets the histories of the newest version."""

from collections.abc import Mapping

import numpy as np

from service.histories.erased import Erased, erase_from
from service.histories.leaving import Flags
from service.histories.local import LocalHistories
from service.histories.packing import POSITION, SOURCE
from service.histories.redis.reducer import SEEDED
from service.histories.redis.store import HistoryStore
from service.histories.redis.values import join, split
from service.histories.rings import Longs
from service.histories.segments import Segment
from service.histories.settings import HistorySettings

USERS_AT_ONCE = 1024


def seed(
    store: HistoryStore,
    settings: HistorySettings,
    segments: list[Segment],
    watermark_ms: int,
    ends: Mapping[int, int],
    erased: Erased,
) -> int:
    """Write a version's histories; how many users.

    Values that go further than the version stay: `ends` has, by source, the offset at which the
    version ends. So do those of another log, which cannot be compared. Replaced are older ones,
    and those that were seeded by someone who died before the log was followed.
    """
    histories = LocalHistories(settings)
    for segment in segments:
        segment.restore(histories)
    erase_from(histories, erased)
    users = np.unique(np.concatenate([s.events.user_T for s in segments] or [erased.user_M[:0]]))
    histories.expire_users(users, watermark_ms)
    for first in range(0, len(users), USERS_AT_ONCE):
        _seed_some(store, histories, users[first : first + USERS_AT_ONCE], ends)
    return len(histories)


def _seed_some(
    store: HistoryStore, histories: LocalHistories, users: Longs, ends: Mapping[int, int]
) -> None:
    while len(users):
        old = store.read(users.tolist())
        wanted_M = ~_further(old, ends)
        users = users[wanted_M]
        values = histories.pack(users)
        values.stamp(np.full(len(users), SEEDED), np.zeros(len(users), np.int64))
        before = [value for value, wanted in zip(old, wanted_M, strict=True) if wanted]
        done = store.swap(users.tolist(), before, split(values))
        users = users[~np.array(done, np.bool_)]


def _further(old: list[bytes | None], ends: Mapping[int, int]) -> Flags:
    """Which values contain all that the version does."""
    values, _ = join(old)
    source_M, position_M = values.field(SOURCE), values.field(POSITION)
    end_M = np.array([ends.get(source, 0) for source in source_M.tolist()], np.int64)
    return np.asarray((source_M != SEEDED) & (position_M >= end_M), np.bool_)
