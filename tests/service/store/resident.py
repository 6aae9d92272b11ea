"""What a process holds in memory while a store works: run in a process of its own.

`python -m tests.service.store.resident NAME ARGUMENTS...` calls the function of that name and
prints what it returned as JSON.
"""

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.histories.local import Events, LocalHistories
from service.histories.settings import HistorySettings
from service.store import Budget, EmbeddingTable
from service.store.budget import row_bytes
from service.store.settings import CapSettings, SlotSettings

ROOT = Path(__file__).parents[3]
BATCH = 10_000
START_MS = 1_732_096_800_000
TURNS, TURN_MS = 20, 1000
"""Slices of event time in which the ids of one time-to-live arrive."""


def in_a_process(name: str, *arguments: int) -> Any:
    """What the function of this file returns in a fresh process."""
    command = [sys.executable, "-m", "tests.service.store.resident", name, *map(str, arguments)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def resident_bytes() -> int:
    """Resident memory of this process, what the allocator holds back given to the system first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise LookupError("/proc/self/smaps_rollup has no line Rss")


def churn_table(capacity: int, times: int) -> list[list[int]]:
    """(resident, nbytes) by turn, as `times * capacity` ids come, are used and expire."""
    return _sizes(_turns_of_a_table(capacity), times)


def churn_full_table(capacity: int, times: int) -> list[list[int]]:
    """The same for a table that holds `capacity` ids and evicts."""
    return _sizes(_turns_of_a_full_table(capacity), times)


def churn_histories(capacity: int, times: int) -> list[list[int]]:
    """The same for users and their events."""
    return _sizes(_turns_of_histories(capacity), times)


def load_table(rows: int, dim: int) -> list[int]:
    """(growth of resident memory, growth of nbytes) as a table of so many rows is filled."""
    slot = SlotSettings(dim=dim, min_count=2, ttl_seconds=86_400)

    def fill(count: int) -> EmbeddingTable:
        table = EmbeddingTable(slot, 0)
        for keys_N in _fresh_keys(count):
            at_ms_N = torch.full((2 * len(keys_N),), START_MS)
            admitted = table.admit(keys_N.repeat(2), at_ms_N)
            table.update(admitted.rows_N, torch.ones(len(admitted.rows_N), dim))
            table.expire(START_MS, BATCH)
        return table

    return _growth(fill, rows)


def load_histories(users: int, capacity: int) -> list[int]:
    """The same for users of 1 to `capacity` events, most of them with few."""
    settings = HistorySettings(capacity=capacity, ttl_seconds=86_400)

    def fill(count: int) -> LocalHistories:
        histories, draw = LocalHistories(settings), np.random.default_rng(0)
        for keys_N in _fresh_keys(count):
            lengths_N = np.minimum(draw.zipf(1.6, len(keys_N)), capacity)
            user_T = draw.permutation(np.repeat(keys_N.numpy(), lengths_N))
            for part_T in np.array_split(user_T, max(1, len(user_T) // BATCH)):
                histories.append(_events(part_T, START_MS), 0)
        return histories

    return _growth(fill, users)


def _growth(fill: Callable[[int], Any], count: int) -> list[int]:
    fill(2 * BATCH)  # compiles
    before = resident_bytes()
    filled = fill(count)
    return [resident_bytes() - before, filled.nbytes]


def _sizes(turns: Iterator[Any], times: int) -> list[list[int]]:
    sizes = []
    for turn in range(times * TURNS):
        holder = next(turns)
        if turn % (TURNS // 2) == 0:
            sizes.append([resident_bytes(), holder.nbytes])
    return sizes


def _turns_of_a_table(capacity: int) -> Iterator[EmbeddingTable]:
    slot = SlotSettings(dim=32, min_count=2, ttl_seconds=TURNS * TURN_MS / 1000, waiting_seconds=5)
    return _turns(EmbeddingTable(slot, 0), capacity)


def _turns_of_a_full_table(capacity: int) -> Iterator[EmbeddingTable]:
    """Nothing expires: whoever comes takes the place of another."""
    slot = SlotSettings(dim=32, grace_seconds=TURN_MS / 1000)
    budget = Budget(CapSettings(max_bytes=capacity * row_bytes(slot)))
    return _turns(EmbeddingTable(slot, 0, budget=budget), capacity)


def _turns(table: EmbeddingTable, capacity: int) -> Iterator[EmbeddingTable]:
    now_ms = START_MS
    for keys_N in _fresh_keys(2**62, capacity // TURNS):
        # A tenth of them is seen once and never again.
        twice_N = torch.cat([keys_N, keys_N[len(keys_N) // 10 :]])
        for part_N in twice_N.split(BATCH):
            rows_N = table.admit(part_N, torch.full((len(part_N),), now_ms)).rows_N
            table.update(rows_N, torch.ones(len(rows_N), table.settings.dim))
        table.expire(now_ms, 2 * capacity)
        table.cut()
        now_ms += TURN_MS
        yield table


def _turns_of_histories(capacity: int) -> Iterator[LocalHistories]:
    draw, now_ms = np.random.default_rng(0), START_MS
    histories = LocalHistories(HistorySettings(capacity=256, ttl_seconds=TURNS * TURN_MS / 1000))
    for keys_N in _fresh_keys(2**62, capacity // TURNS):
        lengths_N = np.minimum(draw.zipf(1.6, len(keys_N)), 256)
        user_T = draw.permutation(np.repeat(keys_N.numpy(), lengths_N))
        for part_T in np.array_split(user_T, len(user_T) // BATCH + 1):
            histories.append(_events(part_T, now_ms), now_ms)
        histories.expire(now_ms, 2 * capacity)
        now_ms += TURN_MS
        yield histories


def _events(user_T: np.ndarray, at_ms: int) -> Events:
    zeros_T = np.zeros(len(user_T), np.int64)
    id_T = np.arange(1, len(user_T) + 1)
    return Events(user_T, zeros_T, zeros_T, np.full(len(user_T), at_ms), id_T)


def _fresh_keys(count: int, batch: int = BATCH) -> Iterator[torch.Tensor]:
    """Keys that never come again, in no order."""
    for first in range(0, count, batch):
        yield torch.arange(first, min(first + batch, count)) * 0x9E3779B97F4A7C15 % 2**63


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(globals()[sys.argv[1]](*map(int, sys.argv[2:]))))
