"""FBGEMM's CPU table (TBE) with rows given: no keys, no admission, no expiry; the price of a hash.

Its wheel runs one call on one thread. Here each thread therefore has a table of its own with its
share of the rows, and batches are split between them before the clock starts: the best case.
Bags of one row: the same vectors as without pooling, by a faster path.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks.peers import checks, rounds
from benchmarks.peers.rounds import Calls
from benchmarks.peers.workload import Batch, Workload, gradients, vectors_of

RATE, EPS = 0.02, 1e-8

Parts = list[tuple[Any, ...]]
"""What each table takes."""


def table(rows: int, dim: int) -> Any:
    """One CPU table of `rows` rows under row-wise Adagrad."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    return SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD, pooling_mode=PoolingMode.SUM,
        learning_rate=RATE, eps=EPS,
    )  # fmt: skip


class Rows:
    """A table per thread: row r is row r // threads of table r % threads. Row 0 for absent keys."""

    def __init__(self, options: argparse.Namespace, workload: Workload) -> None:
        import fbgemm_gpu
        import torch

        torch.set_num_threads(1)
        self._torch, self._workload, self._threads = torch, workload, options.threads
        self._others = ThreadPoolExecutor(max(1, options.threads - 1))
        self._grads = torch.from_numpy(gradients(workload.batch, options.dim))
        self._tables = []
        for part in range(options.threads):
            places = np.arange(part, workload.size, options.threads)
            self._tables.append(table(len(places), options.dim))
            vectors = torch.from_numpy(vectors_of(places, options.dim))
            self._tables[-1].split_embedding_weights()[0].copy_(vectors)
        self._dim = options.dim
        self.about = {"fbgemm-gpu-cpu": fbgemm_gpu.__version__, "torch": torch.__version__}

    def check(self) -> None:
        checks.lookups(self._joined, self._workload, self._dim)
        checks.row_wise_adagrad(self._joined, self._train, self._workload, RATE)

    def calls(self, measure: str, batches: list[Batch]) -> Calls:
        """`update` is the backward pass, which trains; its forward pass is made beforehand."""
        work = {"lookup": self._forward, "update": self._backward, "step": self._both}[measure]
        parts = [self._split(batch) for batch in batches]
        if measure == "update":
            parts = [self._ready_to_train(part) for part in parts]
        return [partial(self._together, work, part) for part in parts]

    def _ready_to_train(self, parts: Parts) -> Parts:
        """Vectors and their gradients by table."""
        vectors = self._together(self._forward, parts)
        return [(made, grads) for made, (_, _, grads, _) in zip(vectors, parts, strict=True)]

    def _split(self, batch: Batch) -> Parts:
        """By table: rows, bag ends, gradients, and their positions in the batch."""
        places_N = np.maximum(batch.places_N, 0)
        parts = []
        for part in range(self._threads):
            at = np.flatnonzero(places_N % self._threads == part)
            rows = self._torch.from_numpy(places_N[at] // self._threads)
            parts.append((rows, self._torch.arange(len(at) + 1), self._grads[at], at))
        return parts

    def _together(self, work: Callable[..., Any], parts: Parts) -> list[Any]:
        others = [self._others.submit(work, i, *parts[i]) for i in range(1, len(parts))]
        return [work(0, *parts[0]), *(other.result() for other in others)]

    def _forward(self, part: int, rows: Any, ends: Any, *rest: Any) -> Any:
        return self._tables[part](rows, ends)

    def _backward(self, part: int, vectors: Any, grads: Any) -> None:
        vectors.backward(grads)

    def _both(self, part: int, rows: Any, ends: Any, grads: Any, *rest: Any) -> None:
        self._tables[part](rows, ends).backward(grads)

    def _joined(self, batch: Batch) -> Any:
        """The batch's vectors in order."""
        out = np.empty((self._workload.batch, self._dim), np.float32)
        parts = self._split(batch)
        found = self._together(self._forward, parts)
        for vectors, (*_, at) in zip(found, parts, strict=True):
            out[at] = vectors.detach()
        return out

    def _train(self, batch: Batch) -> None:
        self._together(self._both, self._split(batch))


if __name__ == "__main__":
    rounds.serve(Rows)
