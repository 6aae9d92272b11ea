"""HSTU attention over packed rows with limits: one function for training and serving.

Source: Actions Speak Louder than Words (arXiv 2402.17152), section 3.2, pointwise aggregated
attention: `SiLU(alpha Q K^T + rab) / N V`, no softmax. What is Freshet's own: keys and values come
from history events only, every asking row carries a limit, N is a constant of the model.

Shapes: B users, T history events, R asking rows, H heads, K width of queries and keys, V width of
values, P distance buckets, S time buckets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.attention import cpu, reference
from kernels.attention.buckets import DISTANCE_BUCKETS, TIME_BUCKETS
from kernels.backends import pick

__all__ = ["DISTANCE_BUCKETS", "TIME_BUCKETS", "Events", "Rows", "attention"]

DENSE_PAIRS = 100_000
"""Pairs per user from which matrix products beat the packed loop (measured, two cores)."""


@dataclass(frozen=True)
class Events:
    """What can be seen: the packed history events of B users, oldest first."""

    offsets: Tensor
    """int64 [B+1]: events of user b are offsets[b] .. offsets[b+1]-1; event j of a user has
    position j."""
    at_ms: Tensor
    """int64 [T], event time in milliseconds."""


@dataclass(frozen=True)
class Rows:
    """Who asks: packed rows grouped by user."""

    offsets: Tensor
    """int64 [B+1]: rows of user b are offsets[b] .. offsets[b+1]-1."""
    position: Tensor
    """int64 [R], position of the row, at least limit - 1."""
    limit: Tensor
    """int64 [R]: the row sees the first `limit` events of its user, all if it has fewer."""
    at_ms: Tensor
    """int64 [R], the time at which the row asks."""


def attention(
    q_RHK: Tensor,
    k_THK: Tensor,
    v_THV: Tensor,
    rows: Rows,
    events: Events,
    distance_bias_P: Tensor,
    time_bias_S: Tensor,
    length: int,
    alpha: float,
    backend: str = "auto",
) -> Tensor:
    """Return [R, H, V]: `sum_j SiLU(alpha q.k_j + bias_j) / length * v_j` over visible events j.

    `bias_j = distance_bias[bucket(position - j)] + time_bias[bucket(at_ms - at_ms_j)]`, shared by
    heads; see `buckets`. A row that sees nothing is exactly zero. `length` is a constant of the
    model, so a row's result does not depend on who shares the batch. Differentiable in q, k, v
    and both biases.

    backend: "reference" (plain torch per user), "cpu" (packed numba loop, fp32) or "auto": the
    reference's matrix products when users have many pairs of rows and events, else the loop.
    """
    if backend == "auto":
        backend = _choose(q_RHK, rows, events)
    run = pick(backend, {"reference": reference.attention, "cpu": cpu.attention})
    return run(q_RHK, k_THK, v_THV, rows, events, distance_bias_P, time_bias_S, length, alpha)


def _choose(q_RHK: Tensor, rows: Rows, events: Events) -> str:
    if q_RHK.dtype != torch.float32 or q_RHK.device.type != "cpu":
        return "reference"
    users = max(1, len(events.offsets) - 1)
    pairs = len(rows.limit) * len(events.at_ms) / users**2
    return "reference" if pairs >= DENSE_PAIRS else "cpu"
