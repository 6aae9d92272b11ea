"""HSTU attention over packed rows with limits: one function for training and serving.

Source: Actions Speak Louder than Words (arXiv 2402.17152), section 3.2, pointwise aggregated
attention: `SiLU(alpha Q K^T + rab) / N V`, no softmax. What is Freshet's own: keys and values come
from history events only, every asking row carries a limit, N is a constant of the model.

Shapes: B users, T history events, R asking rows, H heads, K width of queries and keys, V width of
values, P distance buckets, S time buckets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.attention import cpu, reference
from kernels.attention.buckets import DISTANCE_BUCKETS, TIME_BUCKETS
from kernels.backends import pick

__all__ = ["DISTANCE_BUCKETS", "TIME_BUCKETS", "Events", "Rows", "attention"]


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
    distance_bias_P: Tensor | None,
    time_bias_S: Tensor | None,
    length: int,
    alpha: float,
    backend: str = "auto",
) -> Tensor:
    """Return [R, H, V]: `sum_j SiLU(alpha q.k_j + bias_j) / length * v_j` over visible events j.

    `bias_j = distance_bias[bucket(position - j)] + time_bias[bucket(at_ms - at_ms_j)]`, shared by
    heads; see `buckets`. A row that sees nothing is exactly zero. `length` is a constant of the
    model, so a row's result does not depend on who shares the batch. Differentiable in q, k, v
    and both biases; a bias that is None counts as 0.

    backend: "reference" (plain torch per user), "cpu" (numba, computed in fp32, returned in the
    type of q), "triton" (on a GPU; fp32 with fp32 products, or bf16 with fp32 sums), "triton-tf32"
    (the same with tf32 products) or "auto": cpu and triton for fp32 and bf16, else the reference.

    Rows may come in any order. Those of a user are best sorted by limit: cpu and triton
    skip, tile by tile, what no row of it sees; triton reads others through a permutation.
    """
    if backend == "auto":
        backend = _choose(q_RHK)
    if backend == "reference":
        distance_bias_P, time_bias_S = (
            q_RHK.new_zeros(64) if bias is None else bias for bias in (distance_bias_P, time_bias_S)
        )
    run = pick(backend, _BACKENDS)
    return run(q_RHK, k_THK, v_THV, rows, events, distance_bias_P, time_bias_S, length, alpha)


def _triton(*arguments: Any) -> Tensor:
    """Imported where it is asked for: a server has no triton."""
    from kernels.attention import gpu

    return gpu.attention(*arguments, precision="ieee")


def _triton_tf32(*arguments: Any) -> Tensor:
    from kernels.attention import gpu

    return gpu.attention(*arguments, precision="tf32")


_BACKENDS: dict[str, Callable[..., Tensor]] = {
    "reference": reference.attention,
    "cpu": cpu.attention,
    "triton": _triton,
    "triton-tf32": _triton_tf32,
}


def _choose(q_RHK: Tensor) -> str:
    if q_RHK.dtype not in (torch.float32, torch.bfloat16):
        return "reference"
    return {"cuda": "triton", "cpu": "cpu"}.get(q_RHK.device.type, "reference")
