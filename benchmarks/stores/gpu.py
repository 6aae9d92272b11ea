"""The key index and the rows on a GPU, beside a static table whose rows are given.

Power-law keys, dim 128, Adam, all keys present. Needs torch, triton, numba and numpy, no more: the
store itself is left out, which adds admission and expiry for ids that are new.

- `lookup`: key to gathered vector, as in evaluation
- `insert`: key to row by find-or-insert
- `train`: key to row, the row marked as used, its vector gathered; then gradients of equal rows
  summed, and one step of Adam for each row
- `static_lookup`, `static_train`: the same with rows given: `index_select` on one tensor, and the
  same step on the rows
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import report
from benchmarks.gpu.sections import Job
from benchmarks.gpu.timing import device_of
from benchmarks.peers.workload import EXPONENT, Batch, Workload
from benchmarks.report import CheckFailed, Figure
from kernels.key_index import KeyIndex, key_index
from kernels.rows import Adam, Decay, RowTable, row_table

BATCHES, QUICK_BATCHES = 10, 3
OPTIMIZER = Adam(learning_rate=0.01)
DECAY = Decay(half_life_ms=7 * 86_400_000)
NOW_MS = 1_000_000
CHECKED_KEYS, CHECKED_BATCH, CHECKED_STEPS = 500, 300, 3
RATIOS = {"lookup": "static_lookup", "train": "static_train"}


@dataclass(frozen=True)
class GpuShape:
    """Preloaded keys, keys per batch, width, batches per turn."""

    keys: int
    batch: int
    dim: int
    batches: int


def shape(options: argparse.Namespace) -> GpuShape:
    """The options' own, or what GPU tables are usually measured with."""
    keys, batch = (1_000_000, 262_144) if options.quick else (8_000_000, 1_048_576)
    return GpuShape(
        options.keys or keys, options.batch or batch, options.dim or 128,
        options.batches or (QUICK_BATCHES if options.quick else BATCHES),
    )  # fmt: skip


def jobs(quick: bool) -> Iterator[Job]:
    """For `benchmarks.gpu`: the check, then the usual sizes."""
    device = device_of()
    usual = GpuShape(keys=8_000_000, batch=1_048_576, dim=128, batches=5)
    chosen = GpuShape(keys=300, batch=64, dim=16, batches=1) if quick else usual
    runs = 1 if quick else 5
    yield Job("rows are numbered and trained as by the reference", lambda: check(chosen, device))
    yield Job(f"{chosen.keys:,} keys", lambda: measure(chosen, device, runs))


def check(shape: GpuShape, device: str) -> None:
    """The Triton backends number, read and train rows as the reference does."""
    workload = Workload(CHECKED_KEYS, CHECKED_BATCH)
    tested = Keyed("triton", device, shape.dim, workload)
    wanted = Keyed("reference", "cpu", shape.dim, workload)
    generator = torch.Generator().manual_seed(0)
    for batch in workload.batches("zipf", 0, CHECKED_STEPS):
        keys_N = torch.from_numpy(batch.keys_N)
        grads_ND = torch.randn(CHECKED_BATCH, shape.dim, generator=generator)
        wanted_ND = wanted.train(keys_N, grads_ND)
        found_ND = tested.train(keys_N.to(device), grads_ND.to(device))
        torch.testing.assert_close(found_ND.cpu(), wanted_ND, rtol=1e-4, atol=1e-5)
        if not torch.equal(tested.find(keys_N.to(device)).cpu(), wanted.find(keys_N)):
            raise CheckFailed("the Triton index numbers rows unlike the reference")


def measure(shape: GpuShape, device: str, runs: int) -> Iterator[Figure]:
    """Turns on fresh batches, the same for all measures of a turn."""
    workload = Workload(shape.keys, shape.batch)
    report.progress(f"preloading {shape.keys:,} rows")
    measures = Measures(shape, device, workload)
    rates: dict[str, list[float]] = {name: [] for name in measures.by_name}
    distinct = 0
    for turn in range(-1, runs):
        batches = workload.batches("zipf", max(turn, 0) + turn % 2, shape.batches)
        distinct = len(set(batches[0].keys_N.tolist()))
        for name in rates:
            rate = measures.rate(name, batches)
            if turn >= 0:
                rates[name].append(rate)
        report.progress(f"turn {turn + 1} of {runs}")
    shared = {
        "device": measures.device_name, "dim": shape.dim, "keys": shape.keys, "batch": shape.batch,
        "distinct": distinct, "zipf": EXPONENT, "optimizer": "adam",
    }  # fmt: skip
    for name, values in rates.items():
        yield Figure.of(f"store.gpu.{name}_keys_per_second", "keys/s", values, **shared)
    for name, static in RATIOS.items():
        slower = [its / ours for ours, its in zip(rates[name], rates[static], strict=True)]
        yield Figure.of(f"store.gpu.{name}_times_slower_than_static", "", slower, **shared)


class Keyed:
    """Rows by key, preloaded; row 0 is nobody's, as in the store."""

    def __init__(self, backend: str, device: str, dim: int, workload: Workload) -> None:
        self.index: KeyIndex = key_index(backend, device=device)
        self.rows: RowTable = row_table(dim, True, backend, device=device)
        self.index.insert(torch.zeros(1, dtype=torch.int64, device=device))
        for keys in workload.preloading():
            self.index.insert(torch.from_numpy(keys).to(device))
            self.rows.extend(self.index.rows_end)

    def find(self, keys_N: Tensor) -> Tensor:
        """Row of each key."""
        return self.index.lookup(keys_N)

    def train(self, keys_N: Tensor, grads_ND: Tensor) -> Tensor:
        """One training step; the vectors before it."""
        rows_N = self.find(keys_N)
        self.rows.touch(rows_N, torch.full_like(rows_N, NOW_MS), DECAY)
        vectors_ND = self.rows.gather(rows_N)
        self.rows.step(rows_N, grads_ND, OPTIMIZER, DECAY)
        return vectors_ND


class Measures:
    """What is timed, by name: each takes keys and their rows in a static table."""

    def __init__(self, shape: GpuShape, device: str, workload: Workload) -> None:
        self._device, self._shape = torch.device(device), shape
        self._keyed = Keyed("triton", device, shape.dim, workload)
        self._static_RD = torch.zeros(shape.keys + 1, shape.dim, device=device)
        self._grads_ND = torch.randn(shape.batch, shape.dim, device=device)
        self.by_name: dict[str, Callable[[Tensor, Tensor], object]] = {
            "lookup": lambda keys_N, _: self._keyed.rows.gather(self._keyed.find(keys_N)),
            "static_lookup": lambda _, rows_N: self._static_RD.index_select(0, rows_N),
            "insert": lambda keys_N, _: self._keyed.index.insert(keys_N),
            "train": lambda keys_N, _: self._keyed.train(keys_N, self._grads_ND),
            "static_train": lambda _, rows_N: self._static_train(rows_N),
        }

    @property
    def device_name(self) -> str:
        """Of the GPU, or `cpu` for Triton's interpreter."""
        on_gpu = self._device.type == "cuda"
        return torch.cuda.get_device_name(self._device) if on_gpu else "cpu"

    def rate(self, name: str, batches: list[Batch]) -> float:
        """Keys per second, from an idle device to an idle device."""
        call = self.by_name[name]
        keys = [torch.from_numpy(batch.keys_N).to(self._device) for batch in batches]
        rows = [torch.from_numpy(batch.places_N + 1).to(self._device) for batch in batches]
        self._wait()
        started = time.perf_counter()
        for keys_N, rows_N in zip(keys, rows, strict=True):
            call(keys_N, rows_N)
        self._wait()
        return len(batches) * self._shape.batch / (time.perf_counter() - started)

    def _static_train(self, rows_N: Tensor) -> Tensor:
        vectors_ND = self._static_RD.index_select(0, rows_N)
        self._keyed.rows.step(rows_N, self._grads_ND, OPTIMIZER, DECAY)
        return vectors_ND

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
