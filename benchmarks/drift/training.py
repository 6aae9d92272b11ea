"""One variant over the stream of one seed: nine tenths are learned in order, once; the rest tests.

Shapes: N records of L items, B records of a batch, T = B (L - 1) positions, I items.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.drift.stream import Size, Stream, stream
from benchmarks.drift.transformer import TransformerLayer
from benchmarks.report import progress
from benchmarks.softmax import shared_loss
from service.model.layer import FORMS
from service.model.sequence import SequenceEncoder

TRAINED = 0.9
BETAS = (0.9, 0.98)
BEST = (10, 50)
"""Lengths of the lists that are scored."""
_OURS = FORMS["freshet"]
VARIANTS = {
    "hstu": _OURS,
    "no-rab": replace(_OURS, bias=None),
    "softmax": replace(_OURS, bias=None, weights="softmax"),
    "transformer": None,
}
"""The form of the layers. "softmax" has no rab either, as in the paper."""


@dataclass(frozen=True)
class Task:
    """One run: equal for all variants but in `variant`."""

    variant: str
    seed: int
    records: int
    items: int
    categories: int
    length: int
    dim: int
    layers: int
    heads: int
    batch: int
    negatives: int
    learning_rate: float
    device: str

    @property
    def size(self) -> Size:
        """Of the stream."""
        return Size(self.records, self.items, self.categories, self.length)


def built(task: Task) -> SequenceEncoder:
    """A fresh model. All variants share all but the layers: item vectors, learned positions, unit
    length of the result."""
    width = task.dim // task.heads
    model = SequenceEncoder(
        task.items, task.dim, task.layers, task.heads, width, width, task.length,
        VARIANTS[task.variant] or _OURS, time=False,
    )  # fmt: skip
    if task.variant == "transformer":
        model.layers = nn.ModuleList(
            TransformerLayer(task.dim, task.heads) for _ in range(task.layers)
        )
    return model.to(task.device)


def run(trial: dict[str, Any]) -> dict[str, Any]:
    """Train and test; HR over all positions of the test records and over their last one, and the
    mean loss of every tenth of the training."""
    task = Task(**trial)
    made = stream(task.size, task.seed)
    torch.manual_seed(task.seed)
    model = built(task)
    first_test = round(TRAINED * task.records)
    began = time.perf_counter()
    losses = _train(model, made, first_test, task)
    seconds = time.perf_counter() - began
    return {**scores(model, made, first_test, task), "seconds": seconds, "losses": losses}


def _train(model: SequenceEncoder, made: Stream, until: int, task: Task) -> list[float]:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=task.learning_rate, betas=BETAS, weight_decay=0, fused=True
    )
    random = np.random.default_rng((task.seed, 1))
    firsts = range(0, until, task.batch)
    parts: list[list[Tensor]] = [[] for _ in range(10)]
    for step, first in enumerate(firsts):
        item_BL = _items(made, first, min(first + task.batch, until), task.device)
        available = made.size.available(first + len(item_BL) - 1)
        negative_M = torch.from_numpy(random.permutation(available)[: task.negatives] + 1)
        loss = shared_loss(
            _asked(model, item_BL), item_BL[:, 1:].flatten(), model.item_vectors()[: available + 1],
            negative_M.to(task.device),
        )  # fmt: skip
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        part = 10 * step // len(firsts)
        parts[part].append(loss.detach())
        if part < 10 * (step + 1) // len(firsts):
            share, loss_now = (step + 1) / len(firsts), float(torch.stack(parts[part]).mean())
            progress(f"{task.variant} seed {task.seed}: {share:.0%}, loss {loss_now:.3f}")
    return [float(torch.stack(part).mean()) for part in parts if part]


@torch.inference_mode()
def scores(model: SequenceEncoder, made: Stream, first_test: int, task: Task) -> dict[str, float]:
    """HR of records from `first_test` on: every item from the second of its record on is ranked
    among all that its record may draw; what ties with it stands before it."""
    vectors_ID = model.item_vectors()
    ranks = []
    for first in range(first_test, task.records, task.batch):
        item_BL = _items(made, first, first + task.batch, task.device)
        asked_BLD = _asked(model, item_BL).view(len(item_BL), item_BL.shape[1] - 1, -1)
        for r, (asked_LD, item_L) in enumerate(zip(asked_BLD, item_BL, strict=True), first):
            score_LI = asked_LD @ vectors_ID[1 : made.size.available(r) + 1].T
            true_L1 = score_LI.gather(1, item_L[1:, None] - 1)
            ranks.append((score_LI >= true_L1).sum(1))
    rank_NL = torch.stack(ranks)
    # A model that has come apart scores NaN, and nothing reaches that: its rank is 0, a miss.
    hit_of = {best: ((rank_NL > 0) & (rank_NL <= best)).double() for best in BEST}
    return {
        **{f"hr_at_{best}": float(hit_NL.mean()) for best, hit_NL in hit_of.items()},
        **{f"last_hr_at_{best}": float(hit_NL[:, -1].mean()) for best, hit_NL in hit_of.items()},
    }


def _items(made: Stream, first: int, end: int, device: str) -> Tensor:
    """Records as the model knows them: id 0 is no item."""
    return torch.from_numpy(made.item_NL[first:end]).to(device, torch.int64) + 1


def _asked(model: SequenceEncoder, item_BL: Tensor) -> Tensor:
    """What a model says after every item of a record but the last: [T, D]."""
    seen_BL = item_BL[:, :-1]
    offsets = torch.arange(len(seen_BL) + 1, device=item_BL.device) * seen_BL.shape[1]
    asked_TD: Tensor = model(seen_BL.flatten(), offsets)
    return asked_TD
