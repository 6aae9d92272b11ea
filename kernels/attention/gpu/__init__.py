"""The Triton kernels: forward and backward without memory that grows with rows x events.

A user's rows are best in order of their limits, as every caller in this repository has them; rows
that are not are read through a permutation, at no other cost. Results are bit-identical from run
to run: no two programs add to the same place. Every row sees its user from the first event on:
where a window starts later, callers pack each window as a user of its own, as trainer and server
do, so tiles are skipped by limit alone.

`bias.py` says how the relative bias is read and learned, `plan.py` what is prepared once for a
batch, `tiles.py` holds the fixed table of tiles.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kernels.attention.buckets import TIME_BUCKETS, distance_bucket
from kernels.attention.gpu.backward import backward_keys, backward_near, backward_rows
from kernels.attention.gpu.bias import BY_DISTANCE
from kernels.attention.gpu.forward import forward
from kernels.attention.gpu.plan import SPAN, Plan, plan_of
from kernels.attention.gpu.tiles import Tile, padded, tiles_of
from kernels.gpu import INTERPRETED, launch

if TYPE_CHECKING:
    from kernels.attention import Events, Rows


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
    *,
    precision: str,
) -> Tensor:
    """See `kernels.attention.attention`; float32 or bfloat16 on a GPU, sums in float32.

    A table that is None costs nothing. `precision` is that of float32 products: "ieee" or "tf32".
    """
    _check(q_RHK, k_THK, v_THV)
    out: Tensor = _Attention.apply(
        q_RHK, k_THK, v_THV, distance_bias_P, time_bias_S, plan_of(rows, events),
        length, alpha, precision,
    )  # fmt: skip
    return out


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(
            f"queries, keys and values are {q.dtype}, {k.dtype}, {v.dtype}; "
            "pass all three as float32 or all as bfloat16"
        )
    if q.device.type != "cuda" and not INTERPRETED:
        raise ValueError(f"the triton backend needs a GPU, the tensors are on {q.device}")


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, distance_bias: Tensor | None,
        time_bias: Tensor | None, plan: Plan, length: int, alpha: float, precision: str,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(q, k, v, distance_bias, time_bias)
        ctx.rest = plan, length, alpha, precision
        return _Call(q, k, v, distance_bias, time_bias, *ctx.rest).forward()

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        call = _Call(*ctx.saved_tensors, *ctx.rest)
        grad_out = _packed(grad_out)
        grads = *call.backward_rows(grad_out), *call.backward_keys(grad_out)
        grad_q, grad_distance, grad_time, grad_k, grad_v = grads
        return grad_q, grad_k, grad_v, grad_distance, grad_time, None, None, None, None


class _Call:
    """One call's arguments, by the names that the kernels give them."""

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, distance_bias: Tensor | None,
        time_bias: Tensor | None, plan: Plan, length: int, alpha: float, precision: str,
    ) -> None:  # fmt: skip
        q, k, v = _packed(q), _packed(k), _packed(v)
        self.plan, self.scale, self.alpha = plan, 1 / length, alpha
        self.heads, self.k_width, self.v_width = q.shape[1], q.shape[2], v.shape[2]
        k_block, v_block = padded(self.k_width), padded(self.v_width)
        self.tiles = tiles_of(q.dtype, precision, k_block, v_block, hopper=_hopper(q.device))
        self.biases = distance_bias, time_bias
        narrow = q.dtype != torch.float32
        self.arguments = {
            "Q": q, "K": k, "V": v, "alpha": alpha / 2, "users": plan.users, "rows": plan.rows,
            "q_row": q.stride(0), "q_head": q.stride(1), "k_row": k.stride(0),
            "k_head": k.stride(1), "v_row": v.stride(0), "v_head": v.stride(1),
            "HEADS": self.heads, "K_WIDTH": self.k_width, "V_WIDTH": self.v_width,
            "K_BLOCK": k_block, "V_BLOCK": v_block, "SPAN": SPAN, "PRECISION": precision,
            "FAST": narrow, "UPCAST": narrow and INTERPRETED,
            **_layout(plan, time_bias is not None), **_tables(distance_bias, time_bias),
        }  # fmt: skip

    def forward(self) -> Tensor:
        out = self._new("Q", self.v_width)
        tile = self.tiles.forward_of(self.biases != (None, None))
        self._launch(
            forward, tile, Tiles=self.plan.row_tiles(tile.rows), Out=out, scale=self.scale,
            out_row=out.stride(0), out_head=out.stride(1),
        )  # fmt: skip
        return out

    def backward_rows(self, grad_out: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Gradients of queries and of both tables."""
        grad_q = self._new("Q", self.k_width)
        tile = self.tiles.backward_rows
        tiles = self.plan.row_tiles(tile.rows)
        sums, moved = grad_q.new_empty(
            (2, len(tiles), self.heads, 2, TIME_BUCKETS), dtype=torch.float32
        )
        given = {
            **_grad_out(grad_out), "Tiles": tiles, "GradQ": grad_q,
            "scale": self.alpha * self.scale, "MANY": self.tiles.many,
        }  # fmt: skip
        biased = self.biases != (None, None)
        for wanted in _parts(self.tiles.apart and biased, "WANT_Q", "WANT_SUMS"):
            wanted["WANT_SUMS"] &= biased
            self._launch(backward_rows, tile, Partial=sums, **given, **wanted)
        if not biased:
            return grad_q, None, None
        if self.tiles.many < TIME_BUCKETS:
            self._launch(backward_near, tile, Partial=moved, **given)
        else:
            moved.zero_()
        tallied = self.scale * _tallied(sums.sum((0, 1)), moved.sum((0, 1)))
        grad_distance, grad_time = (
            None if bias is None else grad_S.to(bias.dtype)
            for bias, grad_S in zip(self.biases, tallied, strict=True)
        )
        return grad_q, grad_distance, grad_time

    def backward_keys(self, grad_out: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of keys and values."""
        grad_k, grad_v = self._new("K", self.k_width), self._new("K", self.v_width)
        tile = self.tiles.backward_keys
        for wanted in _parts(self.tiles.apart, "WANT_K", "WANT_V"):
            self._launch(
                backward_keys, tile, **_grad_out(grad_out), Tiles=self.plan.key_tiles(tile.keys),
                GradK=grad_k, GradV=grad_v, k_scale=self.alpha * self.scale, v_scale=self.scale,
                **wanted,
            )  # fmt: skip
        return grad_k, grad_v

    def _new(self, like: str, width: int) -> Tensor:
        tensor: Tensor = self.arguments[like]
        return tensor.new_empty((len(tensor), self.heads, width))

    def _launch(self, kernel: Any, tile: Tile, **own: Any) -> None:
        """One program for each tile and head."""
        given = {**self.arguments, "ROWS": tile.rows, "KEYS": tile.keys, **own}
        first, *others = kernel.arg_names
        launch(
            kernel, len(own["Tiles"]) * self.heads, given[first],
            **{name: given[name] for name in others}, **tile.options(),
        )  # fmt: skip


def _parts(apart: bool, *names: str) -> list[dict[str, bool]]:
    """What each launch is to compute: everything at once, or one after the other."""
    if not apart:
        return [dict.fromkeys(names, True)]
    return [{name: name == wanted for name in names} for wanted in names]


def _grad_out(grad_out: Tensor) -> dict[str, Any]:
    return {
        "GradOut": grad_out, "out_row": grad_out.stride(0), "out_head": grad_out.stride(1)
    }  # fmt: skip


def _packed(x: Tensor) -> Tensor:
    """x with the columns of a head next to each other; nothing is copied if they are."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _layout(plan: Plan, timed: bool) -> dict[str, Tensor]:
    row_spans, first_row_span = plan.row_spans
    layout = {
        "Order": plan.order_R, "Limit": plan.limit_R, "Position": plan.position_R,
        "RowMs": plan.row_ms_R, "RowEnds": plan.row_ends_B, "RowSpans": row_spans,
        "FirstRowSpan": first_row_span, "FirstSpan": first_row_span,
        "EventEnds": plan.seen.ends_B, "EventMs": plan.seen.ms_T,
    }  # fmt: skip
    if not timed:  # what follows is never read
        return {**layout, **dict.fromkeys(("Rank", "Reach", "EventSpans"), plan.order_R)}
    event_spans, first_span = plan.seen.spans
    times = {"Rank": plan.seen.rank_T, "Reach": plan.reach_SR, "EventSpans": event_spans}
    return {**layout, **times, "FirstSpan": first_span}


def _tables(distance_bias: Tensor | None, time_bias: Tensor | None) -> dict[str, Any]:
    """Half of each bias, and that of every distance."""
    distance = None if distance_bias is None else 0.5 * distance_bias.float()
    device = None if distance is None else distance.device
    return {
        "Distance": distance,
        "ByDistance": None if distance is None else distance[_buckets_by_distance(device)],
        "Time": None if time_bias is None else 0.5 * time_bias.float(),
        "HAS_DISTANCE": distance is not None, "HAS_TIME": time_bias is not None,
    }  # fmt: skip


@lru_cache
def _hopper(device: torch.device) -> bool:
    """Whether the device has warp group products; the interpreter does as if."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (9, 0)


@lru_cache
def _buckets_by_distance(device: torch.device | None) -> Tensor:
    return distance_bucket(torch.arange(BY_DISTANCE.value, device=device))


def _tallied(sums_2S: Tensor, moved_2S: Tensor) -> Tensor:
    """Sums by bucket, after each bucket took from the one below it what was moved."""
    taken_2S = torch.cat([moved_2S[:, 1:], moved_2S.new_zeros((2, 1))], 1)
    return sums_2S + moved_2S - taken_2S
