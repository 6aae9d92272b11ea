"""Attention on a CPU: nothing is padded, no matrix of weights is kept, both passes in numba.

What is kept for the backward pass is one byte for each visible pair, its entry of the time table.
Users are computed one after the other in tiles of 8 rows, over the events that the tile sees. The
backward pass computes weights again. Every number is a sum in an order that neither other users nor
the number of threads change: a row's result is the same bit for bit whoever shares the batch.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kernels.attention.cpu import passes
from kernels.attention.cpu.pairs import Pairs, bucketed
from kernels.attention.cpu.vectors import LANES
from kernels.attention.kept import kept
from kernels.crew import Crew

if TYPE_CHECKING:
    from kernels.attention import Events, Rows

__all__ = ["Pairs", "attend", "attention"]


def attention(
    q_RHK: Tensor,
    k_THK: Tensor,
    v_THV: Tensor,
    rows: "Rows",
    events: "Events",
    distance_bias_P: Tensor | None,
    time_bias_S: Tensor | None,
    length: int,
    alpha: float,
) -> Tensor:
    """See `kernels.attention.attention`; computed in fp32, returned in the type of q."""
    timed = time_bias_S is not None
    pairs = kept((bucketed, timed), (rows, events), lambda: bucketed(rows, events, timed))
    return attend(q_RHK, k_THK, v_THV, pairs, distance_bias_P, time_bias_S, length, alpha)


def attend(
    q_RHK: Tensor,
    k_THK: Tensor,
    v_THV: Tensor,
    pairs: Pairs,
    distance_bias: Tensor | None,
    time_bias: Tensor | None,
    length: int,
    alpha: float,
) -> Tensor:
    """`attention` with tables whose entries `pairs` chooses: pairs are made once for all layers.

    Work is shared by as many threads as torch has (`torch.set_num_threads`).
    """
    _check(q_RHK, k_THK, v_THV, pairs)
    distance_bias = torch.zeros(pairs.distances) if distance_bias is None else distance_bias
    time_bias = torch.zeros(pairs.times) if time_bias is None else time_bias
    for name, table, entries in (
        ("distance", distance_bias, pairs.distances), ("time", time_bias, pairs.times),
    ):  # fmt: skip
        if len(table) < entries:
            raise ValueError(f"the {name} table has {len(table)} entries; pairs read {entries}")
    if len(time_bias) and not pairs.times and pairs.count:
        raise ValueError("there is a table of time biases, but the pairs were made without times")
    inputs = (t.float() for t in (q_RHK, k_THK, v_THV, distance_bias, time_bias))
    out: Tensor = _Attention.apply(*inputs, pairs, length, alpha)
    return out.to(q_RHK.dtype)


def _check(q: Tensor, k: Tensor, v: Tensor, pairs: Pairs) -> None:
    """The passes work on addresses: what does not fit would be read, or written, past its end."""
    rows, events, (heads, width) = len(pairs.limit), pairs.events, q.shape[1:]
    for name, tensor, shape in (
        ("queries", q, (rows, heads, width)),
        ("keys", k, (events, heads, width)),
        ("values", v, (events, heads, v.shape[-1])),
    ):
        if tensor.shape != shape:
            raise ValueError(
                f"{name} are {list(tensor.shape)}; for {rows} rows and {events} events, "
                f"{heads} heads and queries {width} wide they must be {list(shape)}"
            )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, distance_bias: Tensor, time_bias: Tensor,
        pairs: Pairs, length: int, alpha: float,
    ) -> Tensor:  # fmt: skip
        q, k, v, time_bias = (t.contiguous() for t in (q, k, v, time_bias))
        ctx.save_for_backward(q, k, v, time_bias)
        ctx.pairs, ctx.entries = pairs, len(distance_bias)
        ctx.by_distance = pairs.by_distance(distance_bias)
        ctx.scales = np.float32(alpha), np.float32(1 / length)
        out = torch.empty((*q.shape[:2], v.shape[2]))
        scratch = passes.forward_scratch(q.shape[1], q.shape[2], pairs.most)
        _run(passes.forward, ctx, (q, k, v), time_bias, scratch, [out])
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        q, k, v, time_bias = ctx.saved_tensors
        pairs = ctx.pairs
        grads = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        parts = len(pairs.cuts) - 1
        distance = torch.zeros((parts, len(ctx.by_distance)))
        time = torch.zeros((parts, len(time_bias), LANES))
        scratch = passes.backward_scratch(q.shape[1], q.shape[2], v.shape[2], pairs.most)
        outputs = [grad_out.contiguous(), *grads, distance, time]
        _run(passes.backward, ctx, (q, k, v), time_bias, scratch, outputs)
        distance = pairs.to_table(distance, ctx.entries)
        return *grads, distance, time.sum(0).sum(1), None, None, None


def _run(
    work: Any, ctx: Any, qkv: tuple[Tensor, ...], time_bias: Tensor, scratch: int,
    outputs: list[Tensor],
) -> None:  # fmt: skip
    """Do the parts of a pass on all threads."""
    pairs = ctx.pairs
    inputs: list[Any] = [
        *(t.detach().numpy() for t in qkv), ctx.by_distance, pairs.nearest,
        time_bias.detach().numpy(), pairs.row_ends, pairs.position, pairs.limit,
        pairs.event_ends, pairs.cuts, pairs.starts, pairs.entries, *ctx.scales,
    ]  # fmt: skip
    arrays = [t.numpy() for t in outputs]

    def share(part: int, parts: int) -> None:
        work(part, parts, *inputs, torch.empty(scratch).numpy(), *arrays)

    _crew(torch.get_num_threads()).run(pairs.count // LANES, share)


@cache
def _crew(threads: int) -> Crew:
    return Crew(threads)
