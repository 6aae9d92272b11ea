"""The store as a contender: admission at two occurrences, a day to live, counts with a half-life.

- `lookup`: key to gathered vector, occurrences counted, last-seen times and counts written
- `read`: the same without writing anything, as serving does
- `update`: keys admitted, gradients of equal rows summed, one optimizer step for each row, and as
  many rows of the expiry sweep as the batch has keys
- `step`: `update` with the vectors gathered in between, as training does
- `gather`: vectors of rows that are given: what this machine's memory allows
- `copy`: 256 bytes per key of the batch, copied in order by all threads
"""

import argparse
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers import rounds
from benchmarks.peers.rounds import Calls
from benchmarks.peers.workload import Batch, Workload, gradients
from benchmarks.report import CheckFailed
from kernels.crew import Crew
from service.store import EmbeddingTable
from service.store.settings import SlotSettings

DAY_SECONDS = 86_400.0
MIN_COUNT = 2
STEP_MS = 1000
"""Event time from batch to batch."""
COPIED_BYTES_PER_KEY = 256
COPIES = 16
"""Pieces of the copied memory, taken in turn: caches shall not hold it."""
CHECKED_BATCH, CHECKED_STEPS = 3_000, 5


class Store:
    """A loaded table whose event time moves on with every batch."""

    def __init__(self, options: argparse.Namespace, workload: Workload) -> None:
        torch.set_num_threads(1)
        self._options, self._batch = options, workload.batch
        self._table = table(options.dim, options.optimizer, options.threads)
        self._grads_ND = torch.from_numpy(gradients(workload.batch, options.dim))
        self._now_ms = 0
        for keys in workload.preloading():
            for _ in range(MIN_COUNT):
                self._admit(torch.from_numpy(keys))
        self._crew = Crew(options.threads)
        self._copied = np.ones((2, COPIES, workload.batch * COPIED_BYTES_PER_KEY), np.uint8)
        self.about = {"rows": len(self._table), "bytes": self._table.nbytes}

    def check(self) -> None:
        """Both backends number rows alike and train alike, expiry included."""
        agree(self._options.dim, self._options.optimizer, self._options.threads)

    def calls(self, measure: str, batches: list[Batch]) -> Calls:
        if measure == "copy":
            return [partial(self._copy, n % COPIES) for n in range(len(batches))]
        tensors = [torch.from_numpy(batch.keys_N) for batch in batches]
        if measure == "gather":
            rows = [self._table.lookup(keys_N) for keys_N in tensors]
            return [partial(self._table.gather, rows_N) for rows_N in rows]
        call = {
            "lookup": self._lookup, "read": self._read, "update": self._update, "step": self._step,
        }[measure]  # fmt: skip
        return [partial(call, keys_N) for keys_N in tensors]

    def _lookup(self, keys_N: Tensor) -> Tensor:
        return self._table.gather(self._admit(keys_N))

    def _read(self, keys_N: Tensor) -> Tensor:
        return self._table.gather(self._table.lookup(keys_N))

    def _update(self, keys_N: Tensor) -> None:
        self._train(self._admit(keys_N))

    def _step(self, keys_N: Tensor) -> Tensor:
        rows_N = self._admit(keys_N)
        vectors_ND = self._table.gather(rows_N)
        self._train(rows_N)
        return vectors_ND

    def _admit(self, keys_N: Tensor) -> Tensor:
        self._now_ms += STEP_MS
        return self._table.admit(keys_N, torch.full_like(keys_N, self._now_ms)).rows_N

    def _train(self, rows_N: Tensor) -> None:
        self._table.update(rows_N, self._grads_ND)
        self._table.expire(self._now_ms, self._batch)

    def _copy(self, piece: int) -> None:
        to, source = self._copied[:, piece]
        self._crew.run(len(to), _copy_part, to, source)


def table(
    dim: int, optimizer: str = "adagrad", threads: int = 1, backend: str = "numba"
) -> EmbeddingTable:
    """An empty table as it is measured."""
    slot = SlotSettings.model_validate(
        {"dim": dim, "min_count": MIN_COUNT, "ttl_seconds": DAY_SECONDS, "optimizer": optimizer}
    )
    return EmbeddingTable(slot, 1, backend, threads=threads)


def agree(dim: int, optimizer: str, threads: int) -> None:
    """CheckFailed unless the numba table does what the reference does, over batches that expire."""
    tables = [table(dim, optimizer, threads, backend) for backend in ("reference", "numba")]
    workload = Workload(2 * CHECKED_BATCH, CHECKED_BATCH)
    grads_ND = torch.from_numpy(gradients(CHECKED_BATCH, dim))
    for step, batch in enumerate(workload.batches("uniform", 0, CHECKED_STEPS)):
        keys_N = torch.from_numpy(batch.keys_N)
        at_ms_N = torch.full_like(keys_N, int(step * 0.4 * DAY_SECONDS * 1000))
        rows = []
        for each in tables:
            rows.append(each.admit(keys_N, at_ms_N).rows_N)
            each.update(rows[-1], grads_ND)
            each.expire(int(at_ms_N[0]), CHECKED_BATCH)
        if not torch.equal(*rows):
            raise CheckFailed(f"step {step}: the numba table numbers rows unlike the reference")
        torch.testing.assert_close(*(each.gather(rows[0]) for each in tables), rtol=1e-4, atol=1e-5)


def _copy_part(part: int, parts: int, to: np.ndarray, source: np.ndarray) -> None:
    mine = slice(len(to) * part // parts, len(to) * (part + 1) // parts)
    np.copyto(to[mine], source[mine])


def main() -> None:
    """Serve rounds of it."""
    parser = rounds.options()
    parser.add_argument("--optimizer", default="adagrad")
    rounds.serve(Store, parser)


if __name__ == "__main__":
    main()
