"""Random inputs of one call, and what a backend makes of them."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kernels.attention import DISTANCE_BUCKETS, TIME_BUCKETS, Events, Rows, attention

N = 16
ALPHA = 0.4
NOW_MS = 1_732_096_800_000


@dataclass(frozen=True)
class Case:
    """Users' history lengths, how many rows each asks, and the widths."""

    lengths: tuple[int, ...]
    asked: tuple[int, ...]
    heads: int = 2
    k: int = 5
    v: int = 5


@dataclass(frozen=True)
class Inputs:
    """Arguments of one call: the five that have gradients, and the layout."""

    learned: tuple[Tensor, ...]
    rows: Rows
    events: Events
    grad_out: Tensor

    def call(self, backend: str) -> Tensor:
        q, k, v, *biases = self.learned
        return attention(q, k, v, self.rows, self.events, *biases, N, ALPHA, backend)


def ends(counts: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *np.cumsum(counts)], dtype=torch.int64)


def inputs_of(case: Case, seed: int = 0) -> Inputs:
    """Random fp64 inputs; limits below, at and above positions, also 0."""
    make = np.random.default_rng(seed)
    counts = zip(case.lengths, case.asked, strict=True)
    limit = np.array([make.integers(n + 1) for n, rows in counts for _ in range(rows)], np.int64)
    events = sum(case.lengths)
    shapes = (
        (len(limit), case.heads, case.k), (events, case.heads, case.k),
        (events, case.heads, case.v), (DISTANCE_BUCKETS,), (TIME_BUCKETS,),
    )  # fmt: skip
    ago_ms = (1000 * 10 ** make.uniform(-1, 9, events)).astype(np.int64)
    position = np.maximum(limit + make.integers(-1, 3, len(limit)), 0)
    asked_ms = NOW_MS + make.integers(-1000, 10**7, len(limit))
    return Inputs(
        tuple(torch.from_numpy(make.standard_normal(shape)) for shape in shapes),
        Rows(ends(case.asked), *map(torch.from_numpy, (position, limit, asked_ms))),
        Events(ends(case.lengths), torch.from_numpy(NOW_MS - ago_ms)),
        torch.from_numpy(make.standard_normal((len(limit), case.heads, case.v))),
    )


def with_gradients(inputs: Inputs, backend: str) -> list[Tensor]:
    """The output and the gradients of q, k, v and both bias tables."""
    learned = tuple(t.clone().requires_grad_() for t in inputs.learned)
    out = replace(inputs, learned=learned).call(backend)
    if not out.requires_grad:  # nobody asks: autograd is not even entered
        return [out, *(torch.zeros_like(t) for t in learned)]
    out.backward(inputs.grad_out)
    return [out.detach(), *(torch.zeros_like(t) if t.grad is None else t.grad for t in learned)]
