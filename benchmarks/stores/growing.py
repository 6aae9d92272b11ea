"""A process that grows one table and prints what happened, as one JSON object.

`python -m benchmarks.stores.growing --first ROWS --last ROWS [--ready]`

A virtual machine may hold memory only while it is in use: then its host finds every page anew,
which can take longer than all that the table does. With `--ready` the process holds the memory
that it will need, written, and gives back as much as a step needs just before the step.
"""

import argparse
import gc
import json
import mmap
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers import rounds
from benchmarks.peers.workload import gradients
from benchmarks.report import CheckFailed
from benchmarks.stores import ours
from kernels.crew import Crew
from kernels.key_index import key_index
from kernels.reserved import Reserved
from service.store import EmbeddingTable

PARTS = ("admit", "gather", "update", "expire")
FRESH_STEPS = 30
READY_BYTES_PER_NUMBER, READY_BYTES_PER_ROW, HUGE_PAGE_BYTES = 4, 160, 2**21
"""What a step's new rows are expected to take at most, in whole huge pages."""


@dataclass
class Step:
    """One step of growth by its parts."""

    ms: dict[str, float] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    """Pages that the system had to find, by part."""
    cpu_ms: float = 0.0
    """Of all threads, so that it does not grow while another process has the processor."""
    preempted: int = 0
    """Times that another process took the processor."""
    index_grew_bytes: int = 0
    rows: int = 0

    @property
    def all_ms(self) -> float:
        """The whole step."""
        return sum(self.ms.values())


class Ready:
    """Memory held for later steps."""

    def __init__(self, options: argparse.Namespace) -> None:
        row_bytes = READY_BYTES_PER_NUMBER * options.dim + READY_BYTES_PER_ROW
        pages = -(-options.batch * row_bytes // HUGE_PAGE_BYTES) + 1
        steps = options.last // options.batch + 1 if options.ready else 0
        self._block_bytes = pages * HUGE_PAGE_BYTES
        self._blocks = [self._written(self._block_bytes) for _ in range(steps)]

    @property
    def nbytes(self) -> int:
        """Bytes still held."""
        return len(self._blocks) * self._block_bytes

    def give_back(self) -> None:
        """As much as one step needs."""
        if self._blocks:
            self._blocks.pop().close()

    @staticmethod
    def _written(size: int) -> mmap.mmap:
        block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            block.madvise(mmap.MADV_HUGEPAGE)
        np.frombuffer(block, np.uint8)[:] = 1
        return block


class Growth:
    """A table that takes in batches of new ids."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(1)
        self.table = ours.table(options.dim, threads=options.threads)
        self._batch = options.batch
        self._grads_ND = torch.from_numpy(gradients(options.batch, options.dim))
        self._now_ms, self._seen = 0, 0
        self._waiting = self._new()
        self.table.admit(self._waiting, torch.zeros_like(self._waiting))

    def step(self) -> Step:
        """Admit the batch that waits and show the next one."""
        fresh = self._new()
        keys = torch.cat([fresh, self._waiting])
        self._waiting = fresh
        self._now_ms += 1000
        at_ms = torch.full_like(keys, self._now_ms)
        step, index_bytes = Step(), _index_bytes(self.table)
        switches, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw, time.process_time()
        rows = _part(step, "admit", lambda: self.table.admit(keys, at_ms).rows_N[self._batch :])
        _part(step, "gather", lambda: self.table.gather(rows))
        _part(step, "update", lambda: self.table.update(rows, self._grads_ND))
        _part(step, "expire", lambda: self.table.expire(self._now_ms, self._batch))
        step.cpu_ms = (time.process_time() - cpu) * 1e3
        step.preempted = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
        step.index_grew_bytes = _index_bytes(self.table) - index_bytes
        step.rows = len(self.table)
        if int(rows.min()) < 1:
            raise CheckFailed(f"at {step.rows} rows a second occurrence did not earn a row")
        return step

    def _new(self) -> Tensor:
        """As many ids as a batch has, never seen before."""
        self._seen += self._batch
        return _keys(self._seen - self._batch, self._batch)


def grow(options: argparse.Namespace) -> dict[str, Any]:
    """Grow one table from `first` to `last` rows; times, faults and bytes."""
    _warm(options)
    ready, growth = Ready(options), Growth(options)
    growth.step()
    start = _memory(growth.table, ready)
    while len(growth.table) < options.first:
        growth.step()
    account = {"memory.first_over_account": _over_account(start, _memory(growth.table, ready))}
    at = growth.table.vectors_RD.data_ptr()
    gc.disable()
    steps = []
    while len(growth.table) < options.last:
        ready.give_back()
        steps.append(growth.step())
    gc.enable()
    if growth.table.vectors_RD.data_ptr() != at:
        raise CheckFailed("the vectors were moved while the table grew")
    account["memory.last_over_account"] = _over_account(start, _memory(growth.table, ready))
    account["bytes_per_row"] = growth.table.nbytes / len(growth.table)
    alone = {
        "growth.fresh_memory": _fresh_memory_ms(options),
        "growth.index_alone": _index_alone_ms(options),
    }
    for name, taken_ms in alone.items():
        account |= _over_median(name, taken_ms)
    return _summary(steps) | account


def _summary(steps: list[Step]) -> dict[str, Any]:
    rising, cpu_ms = sorted(step.all_ms for step in steps), [step.cpu_ms for step in steps]
    p99 = rising[int(0.99 * (len(rising) - 1))]
    longest = max(steps, key=lambda step: step.all_ms)
    median_ms = {part: statistics.median(step.ms[part] for step in steps) for part in PARTS}
    median_faults = {part: statistics.median(s.faults[part] for s in steps) for part in PARTS}
    return {
        **_over_median("growth", rising),
        "growth.p99_over_median_ms": p99 - statistics.median(rising),
        "growth.longest_cpu_over_median_ms": max(cpu_ms) - statistics.median(cpu_ms),
        "longest": {
            "ms": longest.all_ms, "cpu_ms": longest.cpu_ms, "rows": longest.rows,
            "preempted": longest.preempted, "index_grew_bytes": longest.index_grew_bytes,
            "part_ms": _rounded(longest.ms), "median_part_ms": _rounded(median_ms),
            "part_faults": longest.faults, "median_part_faults": median_faults,
        },
    }  # fmt: skip


def _over_median(name: str, taken_ms: list[float]) -> dict[str, float]:
    separator = "." if name == "growth" else "_"
    median = statistics.median(taken_ms)
    return {
        f"{name}{separator}longest_over_median_ms": max(taken_ms) - median,
        f"{name}{separator}median_ms": median,
    }


def _fresh_memory_ms(options: argparse.Namespace) -> list[float]:
    """Time to write as many vectors as a step makes where nothing was ever written."""
    memory, taken = Reserved(np.float32, options.dim), []
    for step in range(FRESH_STEPS):
        started = time.perf_counter()
        vectors = memory.extend((step + 1) * options.batch)
        vectors[step * options.batch * options.dim :] = 1
        taken.append((time.perf_counter() - started) * 1e3)
    return taken


def _index_alone_ms(options: argparse.Namespace) -> list[float]:
    """Time to insert as many new keys as a step has, once `first` are there."""
    index, taken = key_index("numba", Crew(options.threads)), []
    while len(index) < options.last:
        keys_N = _keys(len(index), options.batch)
        started = time.perf_counter()
        index.insert(keys_N)
        if len(index) > options.first:
            taken.append((time.perf_counter() - started) * 1e3)
    return taken


def _keys(first: int, size: int) -> Tensor:
    """Distinct keys all over the range."""
    ids = torch.arange(first, first + size)
    return (2 * ids + 1) * -7046029254386353131  # odd: distinct modulo 2^64


def _rounded(parts: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in parts.items()}


def _part(step: Step, name: str, work: Callable[[], Any]) -> Any:
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    started = time.perf_counter()
    done = work()
    step.ms[name] = (time.perf_counter() - started) * 1e3
    step.faults[name] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return done


def _index_bytes(table: EmbeddingTable) -> int:
    return table.bytes_by_part()["index"]


def _warm(options: argparse.Namespace) -> None:
    """Compile everything, and let the allocator keep what a step needs."""
    warm = Growth(options)
    for _ in range(2):
        warm.step()
    del warm
    gc.collect()


def _memory(table: EmbeddingTable, ready: Ready) -> tuple[int, int]:
    """Bytes of this process in the machine's memory (Linux), but for those held ready, and what
    the table says it holds."""
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return resident_pages * resource.getpagesize() - ready.nbytes, table.nbytes


def _over_account(start: tuple[int, int], now: tuple[int, int]) -> float:
    """Growth of resident memory over growth of what the table says it holds."""
    resident, held = (after - before for before, after in zip(start, now, strict=True))
    if not held:
        raise CheckFailed(f"{now[1]} bytes are too few to tell their growth; use more --keys")
    return resident / held


def main() -> None:
    """Grow one table and print what happened."""
    parser = rounds.options()
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--last", type=int, required=True)
    parser.add_argument("--ready", action="store_true")
    print(json.dumps(grow(parser.parse_args())))


if __name__ == "__main__":
    main()
