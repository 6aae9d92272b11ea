"""A crowd of users comes, and most of it leaves: run in a process of its own.

`python -m tests.service.histories.crowd USERS` prints, as JSON, by how much resident memory grew
and what the histories say, with everyone there and with one in ten left.
"""

import json
import sys

import numpy as np

from service.histories.local import Events, LocalHistories
from service.histories.settings import HistorySettings
from tests.service.store.resident import resident_bytes

BATCH = 10_000
SETTINGS = HistorySettings(ttl_seconds=1, capacity=256)


def filled(users: int) -> LocalHistories:
    """Users of 1 to 256 events, most of them with few, each event with an id."""
    histories, draw = LocalHistories(SETTINGS), np.random.default_rng(0)
    lengths = np.minimum(draw.zipf(1.6, users), SETTINGS.capacity)
    user_T = draw.permutation(np.repeat(np.arange(users), lengths))
    for first in range(0, len(user_T), BATCH):
        part_T = user_T[first : first + BATCH]
        count = np.arange(first, first + len(part_T))
        at_ms_T = np.where(part_T % 10, 1000, 10_000)
        histories.append(Events(part_T, count, count % 5, at_ms_T, 1 + count), 0)
    return histories


def told(users: int) -> list[list[int]]:
    """[growth of resident memory, nbytes, charged bytes], before and after most have left."""
    filled(2 * BATCH).expire(3000, 2 * BATCH)  # compiles
    before = resident_bytes()
    histories = filled(users)
    whole = [resident_bytes() - before, histories.nbytes, histories.charged_bytes]
    for _ in range(10):
        histories.expire(3000, users // 10)
    assert len(histories) == users // 10
    return [whole, [resident_bytes() - before, histories.nbytes, histories.charged_bytes]]


if __name__ == "__main__":
    print(json.dumps(told(int(sys.argv[1]))))
