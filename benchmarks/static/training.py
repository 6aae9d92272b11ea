"""One model trained on one file by one protocol, and what it reaches on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.report import progress
from benchmarks.softmax import TEMPERATURE, gathered_loss, shared_loss
from benchmarks.static.encoders import LENGTH, built
from benchmarks.static.ranking import quality
from benchmarks.static.sequences import Batch, Sequences, batches, read_sequences

HELD_OUT = {"published": 1, "clean": 2}
"""Events at the end of each sequence that training does not see."""
BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class Task:
    """One run. `negatives`: "shared" (one set for a batch, with logQ) or "gathered" (a set for
    each position, as in the public code)."""

    data: str
    order: str
    model: str
    protocol: str
    seed: int
    epochs: int
    every: int
    users: int
    negatives: str
    count: int
    learning_rate: float
    temperature: float
    limit: int | None = None


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Train and score every few epochs; the scores of each, and the time of a step.

    "published" scores the last event, "clean" the second to last (to choose the epoch) and the
    last.
    """
    job = Task(**task)
    sequences = read_sequences(Path(job.data), job.order)
    if job.limit:
        end = sequences.offsets[job.limit]
        sequences = Sequences(
            sequences.item_T[:end], sequences.offsets[: job.limit + 1], sequences.items
        )
    torch.manual_seed(job.seed)
    model = built(job.model, sequences.items)
    epochs, step_ms = [], []
    for epoch, times in enumerate(_epochs(model, sequences, job), 1):
        step_ms.append(1000 * float(np.median(times)))
        if epoch % job.every == 0 or epoch == job.epochs:
            epochs.append({"epoch": epoch, **_scores(model, sequences, job.protocol)})
            progress(f"{job.model} {job.protocol} seed {job.seed}: {epochs[-1]}")
    return {"step_cpu_ms": float(np.median(step_ms)), "epochs": epochs}


def _scores(model: Any, sequences: Sequences, protocol: str) -> dict[str, float]:
    test = quality(model, sequences, 1, LENGTH)
    found = {"hr": test.hr_at_10, "ndcg": test.ndcg_at_10}
    if protocol == "clean":
        valid = quality(model, sequences, 2, LENGTH)
        found |= {"valid_hr": valid.hr_at_10, "valid_ndcg": valid.ndcg_at_10}
    return found


def _epochs(model: nn.Module, sequences: Sequences, job: Task) -> Iterator[list[float]]:
    """Train epoch by epoch; CPU seconds of each step."""
    learner = Learner(
        model, sequences.items, job.negatives, job.count, job.seed, temperature=job.temperature
    )
    held_out, done = HELD_OUT[job.protocol], 0
    whole = job.epochs * -(-len(sequences) // job.users)
    for epoch in range(job.epochs):
        times = []
        for batch in batches(sequences, held_out, LENGTH, job.users, (job.seed, epoch)):
            began = time.process_time()
            learner.learn(batch, job.learning_rate * falling(done / whole))
            times.append(time.process_time() - began)
            done += 1
        yield times


def falling(done: float) -> float:
    """Share of the learning rate that is left: half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * done)) / 2


class Learner:
    """Turns batches into steps of AdamW. Users of a batch are dealt to `threads`."""

    def __init__(
        self,
        model: Any,
        items: int,
        negatives: str,
        count: int,
        seed: int,
        threads: int = 1,
        temperature: float = TEMPERATURE,
    ) -> None:
        self._model, self._items, self._count, self._threads = model, items, count, threads
        self._temperature = temperature
        self._random = np.random.default_rng((seed, 1))
        self._loss = {"shared": self._shared, "gathered": self._gathered}[negatives]
        self._weights = list(model.parameters())
        self._optimizer = torch.optim.AdamW(
            self._weights, lr=0.0, betas=BETAS, weight_decay=0, fused=True
        )
        self._pool = ThreadPoolExecutor(max(1, threads - 1))

    def learn(self, batch: Batch, learning_rate: float) -> None:
        """One step on the mean loss of all events of the batch."""
        negative_M = torch.from_numpy(self._random.permutation(self._items)[: self._count] + 1)
        first, *others = batch.dealt(self._threads)
        work = partial(self._gradients, negative_M=negative_M, events=len(batch.item_T))
        futures = [self._pool.submit(work, other) for other in others]
        parts = [work(first), *(future.result() for future in futures)]
        for weight, *grads in zip(self._weights, *parts, strict=True):
            weight.grad = grads[0] if len(grads) == 1 or grads[0] is None else sum(grads)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()

    def _gradients(self, part: Batch, negative_M: Tensor, events: int) -> tuple[Tensor | None, ...]:
        users_TD = self._model(torch.from_numpy(part.item_T), torch.from_numpy(part.offsets))
        loss = self._loss(users_TD, torch.from_numpy(part.next_T), negative_M)
        return torch.autograd.grad(
            loss * (len(part.item_T) / events), self._weights, allow_unused=True
        )

    def _shared(self, users_TD: Tensor, next_T: Tensor, negative_M: Tensor) -> Tensor:
        return shared_loss(
            users_TD, next_T, self._model.item_vectors(), negative_M, self._temperature
        )

    def _gathered(self, users_TD: Tensor, next_T: Tensor, negative_M: Tensor) -> Tensor:
        negative_TM = torch.randint(1, self._items + 1, (len(next_T), len(negative_M)))
        return gathered_loss(
            users_TD, next_T, self._model.item_vectors(), negative_TM, self._temperature
        )
