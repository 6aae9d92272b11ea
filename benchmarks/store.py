"""How fast the embedding table finds, reads and trains rows, and what a row costs in memory.

Keys are preloaded; batches follow Zipf's law and are used once, since a repeated batch would be
read from cache. Admission (`min_count` 2) and expiry are on.

- `lookup_keys_per_second`: key to gathered vector
- `update_keys_per_second`: key to row with last-seen time and count written, gradients of equal
  rows summed, one row-wise Adagrad step, one slice of the expiry sweep
- `bytes_per_row`: all memory of the table, unused capacity included, by live id

Everything runs on one thread.
"""

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks import report
from benchmarks.report import CheckFailed, Figure
from service.store import EmbeddingTable, SlotSettings

EXPONENT = 1.05
CHECKED_KEYS, CHECKED_BATCH = 5_000, 3_000
DAY_SECONDS = 86_400.0


class ZipfKeys:
    """`count` distinct 64-bit keys in random order, and batches of them under Zipf's law."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        # Odd multiples of one number are distinct modulo 2^64 and look random.
        odd = self._random.permutation(count).astype(np.uint64) * np.uint64(2) + np.uint64(1)
        self.all = torch.from_numpy((odd * np.uint64(0x9E3779B97F4A7C15)).view(np.int64))
        weights = np.arange(1, count + 1, dtype=np.float64) ** -EXPONENT
        self._shares = np.cumsum(weights) / weights.sum()

    def batch(self, size: int) -> Tensor:
        """`size` keys, drawn anew."""
        ranks = np.searchsorted(self._shares, self._random.random(size))
        return self.all[torch.from_numpy(np.minimum(ranks, len(self.all) - 1))]


def main() -> int:
    """The command `python -m benchmarks.store`."""
    options = report.parser(__doc__)
    options.add_argument("--keys", type=int, default=1_000_000, help="preloaded ids (1,000,000)")
    options.add_argument("--batch", type=int, default=65_536, help="keys per call (65,536)")
    options.add_argument("--dim", type=int, default=64)
    options.add_argument("--runs", type=int, help="(7; quick: 5)")
    options.add_argument("--batches", type=int, default=10, help="fresh batches per run (10)")
    return report.run(options, check, measure)


def check(options: argparse.Namespace) -> None:
    """Both backends train alike through admission, updates and expiry."""
    keys = ZipfKeys(CHECKED_KEYS)
    tables = [EmbeddingTable(_slot(options.dim), 1, name) for name in ("reference", "numba")]
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        batch = keys.batch(CHECKED_BATCH)
        grads_ND = torch.randn(CHECKED_BATCH, options.dim, generator=generator)
        at_ms = np.full(CHECKED_BATCH, step * 40_000_000)
        found = [_train(table, batch, grads_ND, torch.from_numpy(at_ms)) for table in tables]
        if not torch.equal(*found):
            raise CheckFailed(f"step {step}: the numba table numbers rows unlike the reference")
    probe = keys.batch(CHECKED_BATCH)
    vectors = [table.gather(table.lookup(probe)) for table in tables]
    torch.testing.assert_close(*vectors, rtol=1e-4, atol=1e-5)


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """Preload, then lookups and updates in turn."""
    keys = ZipfKeys(options.keys)
    table = _loaded(keys, options)
    grads_ND = torch.randn(options.batch, options.dim)
    at_ms = torch.full((options.batch,), 1000)
    measures: dict[str, Callable[[], float]] = {
        "lookup": lambda: _rate(keys, options, lambda batch: table.gather(table.lookup(batch))),
        "update": lambda: _rate(keys, options, lambda batch: _train(table, batch, grads_ND, at_ms)),
    }
    settings = {
        "dim": options.dim, "keys": options.keys, "batch": options.batch, "zipf": EXPONENT,
        "threads": 1,
    }  # fmt: skip
    for name, rates in report.interleaved(_runs(options), measures).items():
        yield Figure.of(f"store.{name}_keys_per_second", "keys/s", rates, **settings)
    yield Figure.of("store.bytes_per_row", "bytes", [table.nbytes / len(table)], **settings)


def _slot(dim: int) -> SlotSettings:
    return SlotSettings(dim=dim, min_count=2, ttl_seconds=DAY_SECONDS)


def _train(table: EmbeddingTable, batch: Tensor, grads_ND: Tensor, at_ms_N: Tensor) -> Tensor:
    rows_N = table.admit(batch, at_ms_N).rows_N
    table.update(rows_N, grads_ND)
    table.expire(int(at_ms_N[-1]), len(batch))
    return rows_N


def _loaded(keys: ZipfKeys, options: argparse.Namespace) -> EmbeddingTable:
    table = EmbeddingTable(_slot(options.dim), 1)
    for first in range(0, len(keys.all), options.batch):
        batch = keys.all[first : first + options.batch]
        for _ in range(table.settings.min_count):
            table.admit(batch, torch.zeros_like(batch))
    return table


def _rate(keys: ZipfKeys, options: argparse.Namespace, call: Callable[[Tensor], object]) -> float:
    batches = [keys.batch(options.batch) for _ in range(options.batches)]
    started = time.perf_counter()
    for batch in batches:
        call(batch)
    seconds = time.perf_counter() - started
    rate: float = options.batches * options.batch / seconds
    return rate


def _runs(options: argparse.Namespace) -> int:
    return options.runs or (5 if options.quick else 7)


if __name__ == "__main__":
    raise SystemExit(main())
