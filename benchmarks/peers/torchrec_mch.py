"""TorchRec's sorted managed collisions over an FBGEMM CPU table: its way to map keys on CPU.

Least recently used ids go when it is full; new ids are sorted in every tenth batch.

- `lookup`: keys remapped, then read, as in evaluation (nothing is recorded)
- `step`: keys recorded and remapped, read, and trained by row-wise Adagrad
"""

import argparse
from functools import partial
from typing import Any

import numpy as np

from benchmarks.peers import checks, rounds
from benchmarks.peers.fbgemm import RATE, table
from benchmarks.peers.rounds import Calls
from benchmarks.peers.workload import Batch, Workload, gradients, vectors_of

BATCHES_PER_SORT = 10
SPARE = 0.1
"""Free rows, as a share of the preloaded ids."""


class ManagedCollisions:
    """The map and the table."""

    def __init__(self, options: argparse.Namespace, workload: Workload) -> None:
        import torch
        from torchrec import __version__
        from torchrec.modules.mc_modules import LRU_EvictionPolicy, MCHManagedCollisionModule
        from torchrec.sparse.jagged_tensor import JaggedTensor

        torch.set_num_threads(options.threads)
        self._torch, self._jagged = torch, JaggedTensor
        self._workload, self._dim = workload, options.dim
        rows = workload.size + int(SPARE * workload.size) + 1
        self._map = MCHManagedCollisionModule(
            zch_size=rows, device=torch.device("cpu"),
            eviction_policy=LRU_EvictionPolicy(), eviction_interval=BATCHES_PER_SORT,
        )  # fmt: skip
        self._table = table(rows, options.dim)
        self._grads = torch.from_numpy(gradients(workload.batch, options.dim))
        self._ones = torch.ones(workload.batch, dtype=torch.int64)
        self._ends = torch.arange(workload.batch + 1)
        self._load()
        self.about = {"torchrec": __version__, "torch": torch.__version__}

    def check(self) -> None:
        checks.lookups(self._read, self._workload, self._dim)
        checks.row_wise_adagrad(self._read, self._train, self._workload, RATE)

    def calls(self, measure: str, batches: list[Batch]) -> Calls:
        call = {"lookup": self._lookup, "step": self._step}[measure]
        tensors = [self._torch.from_numpy(batch.keys_N) for batch in batches]
        return [partial(call, keys) for keys in tensors]

    def _load(self) -> None:
        """Show every key, the last ones until all have been sorted in; then write vectors."""
        batches = [self._torch.from_numpy(keys) for keys in self._workload.preloading()]
        for keys in batches + [batches[0]] * BATCHES_PER_SORT:
            self._rows(keys, record=True)
        place, weights = 0, self._table.split_embedding_weights()[0]
        for keys in batches:
            vectors = vectors_of(np.arange(place, place + len(keys)), self._dim)
            weights[self._rows(keys)] = self._torch.from_numpy(vectors)
            place += len(keys)

    def _rows(self, keys: Any, record: bool = False) -> Any:
        jagged = self._jagged(values=keys, lengths=self._ones[: len(keys)])
        with self._torch.no_grad():
            self._map.train(record)
            return self._map({"id": jagged})["id"].values()

    def _lookup(self, keys: Any) -> Any:
        return self._table(self._rows(keys), self._ends)

    def _step(self, keys: Any) -> None:
        self._table(self._rows(keys, record=True), self._ends).backward(self._grads)

    def _read(self, batch: Batch) -> Any:
        return self._lookup(self._torch.from_numpy(batch.keys_N)).detach()

    def _train(self, batch: Batch) -> None:
        self._step(self._torch.from_numpy(batch.keys_N))


if __name__ == "__main__":
    rounds.serve(ManagedCollisions)
