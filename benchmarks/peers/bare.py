"""The least a hash table on CPU can do: linear probing at half load, plain loops, one fixed size.

No admission, no expiry, no counts, no growth, no removal, no prefetching: what those cost or gain
shows beside it. Lookups are shared by `threads`; updates run on one, for they share scratch memory.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit

from benchmarks.peers import checks, rounds
from benchmarks.peers.rounds import Calls
from benchmarks.peers.workload import Batch, Longs, Workload, gradients, vectors_of

RATE, EPS = 0.02, 1e-8
_NONE = np.int64(-1)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_ONE, _SHIFT = np.uint64(1), np.uint64(32)


@njit(cache=True, nogil=True)
def _insert(slot_keys, slot_rows, keys, first_row):
    mask = np.uint64(len(slot_keys) - 1)
    for n in range(len(keys)):
        slot = ((np.uint64(keys[n]) * _MIX) >> _SHIFT) & mask
        while slot_rows[slot] != _NONE:
            slot = (slot + _ONE) & mask
        slot_keys[slot], slot_rows[slot] = keys[n], first_row + n


@njit(cache=True, nogil=True)
def _find(slot_keys, slot_rows, keys, rows):
    """Row of each key; row 0 for those without."""
    mask = np.uint64(len(slot_keys) - 1)
    for n in range(len(keys)):
        slot = ((np.uint64(keys[n]) * _MIX) >> _SHIFT) & mask
        while slot_rows[slot] != _NONE and slot_keys[slot] != keys[n]:
            slot = (slot + _ONE) & mask
        rows[n] = max(slot_rows[slot], 0)


@njit(cache=True, nogil=True)
def _gather(flat, rows, out, width):
    for n in range(len(rows)):
        source, to = np.uint64(rows[n]) * width, np.uint64(n) * width
        for d in range(width):
            out[to + d] = flat[source + d]


@njit(cache=True, nogil=True)
def _step(flat, squares, rows, grads, place, sums, distinct, width):
    """Sum the gradients of equal rows, then one row-wise Adagrad step for each."""
    used = np.uint64(0)
    for n in range(len(rows)):
        row = np.uint64(rows[n])
        if place[row] < 0:
            place[row], distinct[used] = np.int64(used), row
            sums[used * width : (used + _ONE) * width] = 0
            used += _ONE
        to, source = np.uint64(place[row]) * width, np.uint64(n) * width
        for d in range(width):
            sums[to + d] += grads[source + d]
    for u in range(used):
        row, total = np.uint64(distinct[u]), np.float32(0)
        place[row] = -1
        source, to = np.uint64(u) * width, row * width
        for d in range(width):
            total += sums[source + d] * sums[source + d]
        squares[row] += total / np.float32(width)
        scale = np.float32(RATE) / (np.sqrt(squares[row]) + np.float32(EPS))
        for d in range(width):
            flat[to + d] -= scale * sums[source + d]


class Bare:
    """Keys, rows and scratch of one batch."""

    def __init__(self, options: argparse.Namespace, workload: Workload) -> None:
        self._workload, self._width = workload, np.uint64(options.dim)
        slots = 1 << (2 * workload.size - 1).bit_length()
        self._slot_keys, self._slot_rows = np.zeros(slots, np.int64), np.full(slots, _NONE)
        _insert(self._slot_keys, self._slot_rows, workload.keys_K, 0)
        self._flat = vectors_of(np.arange(workload.size), options.dim).reshape(-1)
        self._squares = np.zeros(workload.size, np.float32)
        self._place = np.full(workload.size, -1, np.int64)
        self._grads = gradients(workload.batch, options.dim).reshape(-1)
        self._sums, self._distinct = np.empty_like(self._grads), np.empty(workload.batch, np.int64)
        self._threads = options.threads
        self._others = ThreadPoolExecutor(max(1, options.threads - 1))
        self.about = {"table": "numba, linear probing at load 0.5 or less, fixed size"}

    def check(self) -> None:
        checks.lookups(self._lookup, self._workload, int(self._width))
        checks.row_wise_adagrad(self._lookup, self._step, self._workload, RATE)

    def calls(self, measure: str, batches: list[Batch]) -> Calls:
        call = {"lookup": self._lookup, "update": self._update, "step": self._step}[measure]
        return [partial(call, batch) for batch in batches]

    def _lookup(self, batch: Batch) -> Any:
        return self._read(batch.keys_N)[1].reshape(self._workload.batch, -1)

    def _update(self, batch: Batch) -> None:
        rows = np.empty(len(batch.keys_N), np.int64)
        _find(self._slot_keys, self._slot_rows, batch.keys_N, rows)
        self._train(rows)

    def _step(self, batch: Batch) -> None:
        rows, _ = self._read(batch.keys_N)
        self._train(rows)

    def _read(self, keys_N: Longs) -> tuple[Longs, Any]:
        """Rows and vectors, a part of the batch per thread."""
        rows, out = np.empty_like(keys_N), np.empty(len(keys_N) * int(self._width), np.float32)
        cuts = np.linspace(0, len(keys_N), self._threads + 1, dtype=int)
        parts = [slice(first, end) for first, end in pairwise(cuts)]
        others = [self._others.submit(self._read_part, keys_N, rows, out, p) for p in parts[1:]]
        self._read_part(keys_N, rows, out, parts[0])
        for other in others:
            other.result()
        return rows, out

    def _read_part(self, keys_N: Longs, rows: Longs, out: Any, part: slice) -> None:
        _find(self._slot_keys, self._slot_rows, keys_N[part], rows[part])
        first, end = part.start * int(self._width), part.stop * int(self._width)
        _gather(self._flat, rows[part], out[first:end], self._width)

    def _train(self, rows: Longs) -> None:
        scratch = (self._place, self._sums, self._distinct, self._width)
        _step(self._flat, self._squares, rows, self._grads, *scratch)


if __name__ == "__main__":
    rounds.serve(Bare)
