"""Norm and gate in one kernel for either direction: every number is read once and written once.

The backward pass computes mean and deviation again from the row that it has to read anyway, so
nothing is kept between the two but the inputs.

Shapes: M rows of a tile, W columns padded to a power of two.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu import INTERPRETED, launch

TILE = 4096
"""Numbers of one input that a program holds: 32 for each of its 128 threads."""


def gated(attended_RW: Tensor, gate_RW: Tensor, eps: float) -> Tensor:
    """See `kernels.gating.gated`; on a GPU."""
    if attended_RW.device.type != "cuda" and not INTERPRETED:
        raise ValueError(f"the triton backend needs a GPU, the tensors are on {attended_RW.device}")
    out: Tensor = _Gated.apply(attended_RW, gate_RW, eps)
    return out


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, attended: Tensor, gate: Tensor, eps: float) -> Tensor:
        attended, gate = attended.contiguous(), gate.contiguous()
        ctx.save_for_backward(attended, gate)
        ctx.eps = eps
        out = torch.empty_like(attended)
        _launch(gated_forward, attended, gate, out, eps=eps)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        attended, gate = ctx.saved_tensors
        grad_attended, grad_gate = torch.empty_like(attended), torch.empty_like(gate)
        _launch(
            gated_backward, attended, gate, grad_out.contiguous(), grad_attended, grad_gate,
            eps=ctx.eps,
        )  # fmt: skip
        return grad_attended, grad_gate, None


def _launch(kernel: Any, *tensors: Tensor, eps: float) -> None:
    rows, width = tensors[0].shape
    block = triton.next_power_of_2(width)
    at_a_time = max(1, TILE // block)
    launch(
        kernel, triton.cdiv(rows, at_a_time), *tensors, rows, eps,
        WIDTH=width, BLOCK=block, ROWS=at_a_time, num_warps=4 if block <= TILE else 8,
    )  # fmt: skip


@triton.jit
def _cells(rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Offsets of the program's numbers and which of them exist: [M, W] both."""
    row_M = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column_W = tl.arange(0, BLOCK)
    known_MW = (row_M < rows)[:, None] & (column_W < WIDTH)[None, :]
    return row_M[:, None] * WIDTH + column_W[None, :], known_MW


@triton.jit
def _normed(x_MW, known_MW, eps, WIDTH: tl.constexpr):
    """Rows with mean 0 and variance 1, and what they were divided by, inverted: [M, W], [M]."""
    mean_M = tl.sum(x_MW, axis=1) / WIDTH
    centred_MW = tl.where(known_MW, x_MW - mean_M[:, None], 0.0)
    scale_M = 1.0 / tl.sqrt(tl.sum(centred_MW * centred_MW, axis=1) / WIDTH + eps)
    return centred_MW * scale_M[:, None], scale_M


@triton.jit(do_not_specialize=["rows"])
def gated_forward(
    Attended, Gate, Out, rows, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Out = norm(Attended) * Gate."""
    cells_MW, known_MW = _cells(rows, WIDTH, BLOCK, ROWS)
    x_MW = tl.load(Attended + cells_MW, mask=known_MW, other=0.0).to(tl.float32)
    gate_MW = tl.load(Gate + cells_MW, mask=known_MW, other=0.0).to(tl.float32)
    normed_MW, _ = _normed(x_MW, known_MW, eps, WIDTH)
    tl.store(Out + cells_MW, (normed_MW * gate_MW).to(Out.dtype.element_ty), mask=known_MW)


@triton.jit(do_not_specialize=["rows"])
def gated_backward(
    Attended, Gate, GradOut, GradAttended, GradGate, rows, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """With n = norm(x) and t = GradOut * Gate: GradGate = GradOut * n and
    GradAttended = (t - mean(t) - n mean(t n)) / deviation."""
    cells_MW, known_MW = _cells(rows, WIDTH, BLOCK, ROWS)
    x_MW = tl.load(Attended + cells_MW, mask=known_MW, other=0.0).to(tl.float32)
    gate_MW = tl.load(Gate + cells_MW, mask=known_MW, other=0.0).to(tl.float32)
    grad_MW = tl.load(GradOut + cells_MW, mask=known_MW, other=0.0).to(tl.float32)
    normed_MW, scale_M = _normed(x_MW, known_MW, eps, WIDTH)
    grad_gate_MW = grad_MW * normed_MW
    tl.store(GradGate + cells_MW, grad_gate_MW.to(GradGate.dtype.element_ty), mask=known_MW)
    grad_normed_MW = grad_MW * gate_MW
    mean_M = tl.sum(grad_normed_MW, axis=1) / WIDTH
    along_M = tl.sum(grad_normed_MW * normed_MW, axis=1) / WIDTH
    grad_x_MW = grad_normed_MW - mean_M[:, None] - normed_MW * along_M[:, None]
    grad_x_MW = grad_x_MW * scale_M[:, None]
    tl.store(GradAttended + cells_MW, grad_x_MW.to(GradAttended.dtype.element_ty), mask=known_MW)
