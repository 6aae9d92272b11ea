"""The packed loop: no padding, no memory beyond one row's logits, both passes in numba.

A row touches only the events it sees, so a batch of short histories costs what its pairs cost.
Every row is computed in a fixed order by one thread: results are bit-identical from run to run.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.attention.buckets import distance_bucket_of, time_bucket_of

if TYPE_CHECKING:
    from kernels.attention import Events, Rows

# Sums over a head's columns may be reassociated (SIMD); the order is fixed by the compiled code.
FAST = {"reassoc", "contract", "nsz"}


def attention(
    q_RHK: Tensor,
    k_THK: Tensor,
    v_THV: Tensor,
    rows: "Rows",
    events: "Events",
    distance_bias_P: Tensor,
    time_bias_S: Tensor,
    length: int,
    alpha: float,
) -> Tensor:
    """See `kernels.attention.attention`; fp32 on CPU."""
    layout = (rows.offsets, rows.position, rows.limit, rows.at_ms, events.offsets, events.at_ms)
    arrays = tuple(t.numpy() for t in layout)
    out: Tensor = _Attention.apply(
        q_RHK, k_THK, v_THV, distance_bias_P, time_bias_S, arrays, length, alpha
    )
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, distance_bias: Tensor, time_bias: Tensor,
        layout: tuple[Any, ...], length: int, alpha: float,
    ) -> Tensor:  # fmt: skip
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out = torch.empty((q.shape[0], q.shape[1], v.shape[2]))
        ctx.save_for_backward(q, k, v, distance_bias, time_bias)
        ctx.rest = *layout, np.float32(1 / length), np.float32(alpha)
        inputs = [t.detach().numpy() for t in (q, k, v, distance_bias, time_bias)]
        arguments: list[Any] = [*inputs, *ctx.rest, out.numpy()]
        _forward(*arguments)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        inputs = [t.detach().numpy() for t in ctx.saved_tensors]
        grads = [torch.zeros_like(t) for t in ctx.saved_tensors]
        outputs = [grad_out.contiguous().numpy(), *(g.numpy() for g in grads)]
        arguments: list[Any] = [*inputs, *ctx.rest, *outputs]
        _backward(*arguments)
        return *grads, None, None, None


@njit(cache=True, nogil=True, inline="always")
def _sigmoid(x: Any) -> Any:
    return np.float32(1.0) / (np.float32(1.0) + math.exp(-x))


@njit(cache=True, nogil=True, fastmath=FAST)
def _forward(
    q, k, v, distance_bias, time_bias, row_ends, position, limit, at_ms, event_ends, event_at_ms,
    scale, alpha, out,
):  # fmt: skip
    heads, width, value_width = q.shape[1], q.shape[2], v.shape[2]
    for b in range(len(row_ends) - 1):
        first = event_ends[b]
        for r in range(row_ends[b], row_ends[b + 1]):
            out[r] = 0.0
            for j in range(min(limit[r], event_ends[b + 1] - first)):
                t = first + j
                bias = (
                    distance_bias[distance_bucket_of(max(position[r] - j, 0))]
                    + time_bias[time_bucket_of(at_ms[r] - event_at_ms[t])]
                )
                for h in range(heads):
                    dot = np.float32(0.0)
                    for c in range(width):
                        dot += q[r, h, c] * k[t, h, c]
                    logit = alpha * dot + bias
                    weight = logit * _sigmoid(logit) * scale
                    for c in range(value_width):
                        out[r, h, c] += weight * v[t, h, c]


@njit(cache=True, nogil=True, fastmath=FAST)
def _backward(
    q, k, v, distance_bias, time_bias, row_ends, position, limit, at_ms, event_ends, event_at_ms,
    scale, alpha, grad_out, grad_q, grad_k, grad_v, grad_distance, grad_time,
):  # fmt: skip
    heads, width, value_width = q.shape[1], q.shape[2], v.shape[2]
    for b in range(len(row_ends) - 1):
        first = event_ends[b]
        for r in range(row_ends[b], row_ends[b + 1]):
            for j in range(min(limit[r], event_ends[b + 1] - first)):
                t = first + j
                near = distance_bucket_of(max(position[r] - j, 0))
                when = time_bucket_of(at_ms[r] - event_at_ms[t])
                bias = distance_bias[near] + time_bias[when]
                grad_bias = np.float32(0.0)
                for h in range(heads):
                    dot = np.float32(0.0)
                    for c in range(width):
                        dot += q[r, h, c] * k[t, h, c]
                    logit = alpha * dot + bias
                    gate = _sigmoid(logit)
                    weight = logit * gate * scale
                    grad_weight = np.float32(0.0)
                    for c in range(value_width):
                        grad_weight += grad_out[r, h, c] * v[t, h, c]
                        grad_v[t, h, c] += weight * grad_out[r, h, c]
                    slope = gate * (np.float32(1.0) + logit * (np.float32(1.0) - gate))
                    grad_logit = grad_weight * slope * scale
                    grad_bias += grad_logit
                    step = alpha * grad_logit
                    for c in range(width):
                        grad_q[r, h, c] += step * k[t, h, c]
                        grad_k[t, h, c] += step * q[r, h, c]
                grad_distance[near] += grad_bias
                grad_time[when] += grad_bias
