"""The attentions of published variants, for comparison: any relative bias, SiLU or softmax.

Plain torch, gradients by autograd. Users with about as many events share dense blocks, so a batch
is a few matrix products. Where every row stands at its own event and times do not count, one bias
serves a whole block, and so does its gradient.

Shapes: B users, T history events, R asking rows, H heads, K width of queries and keys, V width of
values; inside a block G users with up to R rows and T events each.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import silu

from kernels.attention import cpu
from kernels.attention.kept import kept

if TYPE_CHECKING:
    from kernels.attention import Events, Rows

RESEARCH_TIME_BUCKETS = 129
BLOCK_PAIRS = 1 << 19
"""Pairs of rows and events in a block of several users: their logits stay in a core's cache."""
ALIKE = 0.7
"""A user joins a block if it has at least this share of the events of the block's longest."""


@dataclass(frozen=True)
class Bias:
    """A table for distances in events, one for gaps of time, and which entry of them is read."""

    distance: Tensor
    time: Tensor | None
    near: Callable[[Tensor], Tensor]
    """Entry of a distance, int64 >= 0."""
    when: Callable[[Tensor], Tensor]
    """Entry of a gap in milliseconds, int64 of either sign."""


def research_time_bucket(gap_ms: Tensor) -> Tensor:
    """Bucket (int64) of the public research code: natural logarithm of whole seconds / 0.301.

    Disorder counts like distance. The logarithm is that of a float32, as there.
    """
    seconds = (gap_ms.abs() // 1000).clamp(min=1).to(torch.float32)
    return (seconds.log() / 0.301).long().clamp(max=RESEARCH_TIME_BUCKETS - 1)


def research_entry(distance: Tensor, length: int) -> Tensor:
    """Which of the 2 N - 1 entries of the public research code's table a distance reads: 0 the one
    in the middle; those after it belong to the future and are never read."""
    return (length - 1 - distance).clamp(min=0)


def research_bias(distance: Tensor, time: Tensor | None, length: int) -> Bias:
    """The relative bias of the public research code, from its tables."""
    return Bias(distance, time, partial(research_entry, length=length), research_time_bucket)


def research_attention(
    q_RHK: Tensor, k_THK: Tensor, v_THV: Tensor, rows: "Rows", events: "Events",
    distance_bias: Tensor, time_bias: Tensor | None, length: int, alpha: float,
) -> Tensor:  # fmt: skip
    """`silu_attention` with the bias of the public research code; on a CPU by the packed loops."""
    if q_RHK.device.type == "cpu" and q_RHK.dtype in (torch.float32, torch.bfloat16):
        timed = time_bias is not None
        made = partial(_research_pairs, rows, events, length, timed)
        pairs = kept((_research_pairs, length, timed), (rows, events), made)
        return cpu.attend(q_RHK, k_THK, v_THV, pairs, distance_bias, time_bias, length, alpha)
    bias = research_bias(distance_bias, time_bias, length)
    return silu_attention(q_RHK, k_THK, v_THV, rows, events, bias, length, alpha)


def _research_pairs(rows: "Rows", events: "Events", length: int, timed: bool) -> cpu.Pairs:
    entries = research_entry(torch.arange(length), length)
    return cpu.Pairs(rows, events, entries, research_time_bucket if timed else None)


def silu_attention(
    q_RHK: Tensor, k_THK: Tensor, v_THV: Tensor, rows: "Rows", events: "Events",
    bias: Bias | None, length: int, alpha: float,
) -> Tensor:  # fmt: skip
    """Return [R, H, V]: `sum_j SiLU(alpha q.k_j + bias_j) / length * v_j` over visible events j.

    `kernels.attention.attention` with a relative bias of any kind. Of bfloat16 inputs the sums are
    float32.
    """
    blocks = kept(_blocks, (rows, events), partial(_blocks, rows, events))
    parts = _parts(blocks, q_RHK * alpha, k_THK, v_THV / length, bias)
    outs = [silu(logits_GHRT) @ v_GHTV for logits_GHRT, v_GHTV in parts]
    return _packed(outs, blocks, v_THV).to(v_THV.dtype)


def softmax_attention(
    q_RHK: Tensor, k_THK: Tensor, v_THV: Tensor, rows: "Rows", events: "Events",
    bias: Bias | None, alpha: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return [R, H, V], `sum_j softmax_j(alpha q.k_j + bias_j) v_j` over visible events j, and
    [R, H, 1], the logarithm of each row's sum of exponentials, by which another term can join.

    A row that sees nothing is exactly zero, its logarithm far below any logit. Of bfloat16 inputs
    the sums are float32.
    """
    blocks = kept(_blocks, (rows, events), partial(_blocks, rows, events))
    outs, sums = [], []
    parts = _parts(blocks, q_RHK * alpha, k_THK, v_THV, bias)
    for block, (logits_GHRT, v_GHTV) in zip(blocks, parts, strict=True):
        sum_GHR1 = logits_GHRT.logsumexp(-1, keepdim=True)
        weights_GHRT = (logits_GHRT - sum_GHR1).exp()
        sees_GHR1 = (block.limit_GR > 0)[:, None, :, None]
        outs.append(torch.where(sees_GHR1, weights_GHRT, 0.0) @ v_GHTV)
        sums.append(sum_GHR1)
    sum_RH1 = _packed(sums, blocks, q_RHK[..., :1])
    return _packed(outs, blocks, v_THV).to(v_THV.dtype), sum_RH1


@dataclass(frozen=True)
class _Block:
    """A few users side by side; padding repeats rows and events that nothing reads or sees."""

    row_GR: Tensor
    """Which row of the call stands here."""
    event_GT: Tensor
    limit_GR: Tensor
    """Events that a row sees."""
    position_GR: Tensor
    """Here and in `limit_GR`, one line if it serves every user."""
    gap_of: tuple[Tensor, Tensor]
    """Times of rows [G, R] and of events [G, T]."""
    real: Tensor
    """Which of the flattened rows are no padding."""

    def bias(self, bias: Bias | None, like: Tensor) -> Tensor:
        """[G, R, T], or [1, R, T] where it is that of every user."""
        event_T = torch.arange(self.event_GT.shape[1], device=like.device)
        added_GRT = like.new_zeros(())
        if bias:
            distance_GRT = (self.position_GR[..., None] - event_T).clamp(min=0)
            added_GRT = _entries(bias.distance, bias.near(distance_GRT))
        if bias and bias.time is not None:
            at_GR, at_GT = self.gap_of
            gap_GRT = at_GR[..., None] - at_GT[:, None]
            added_GRT = added_GRT + _entries(bias.time, bias.when(gap_GRT))
        seen_GRT = event_T < self.limit_GR[..., None]
        return torch.where(seen_GRT, added_GRT, torch.finfo(like.dtype).min / 2)


def _parts(
    blocks: list[_Block], q_RHK: Tensor, k_THK: Tensor, v_THV: Tensor, bias: Bias | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each block the logits [G, H, R, T], far below any other where a row does not see the
    event, and the values [G, H, T, V]; float32 of bfloat16."""
    row, event = [block.row_GR for block in blocks], [block.event_GT for block in blocks]
    taken = (_taken(x, at) for x, at in ((q_RHK, row), (k_THK, event), (v_THV, event)))
    for block, q_GRHK, k_GTHK, v_GTHV in zip(blocks, *taken, strict=True):
        logits_GHRT = q_GRHK.transpose(1, 2) @ k_GTHK.permute(0, 2, 3, 1)
        logits_GHRT += block.bias(bias, logits_GHRT).unsqueeze(1)
        yield logits_GHRT, v_GTHV.transpose(1, 2)


def _blocks(rows: "Rows", events: "Events") -> list[_Block]:
    """Every user that asks is in one block."""
    asked_B, held_B = rows.offsets.diff(), events.offsets.diff()
    alike = _each_at_its_own_event(rows, events)
    return [
        _block(rows, events, torch.tensor(users, device=asked_B.device), alike)
        for users in _groups(asked_B.tolist(), held_B.tolist())
    ]


def _groups(asked_B: Sequence[int], held_B: Sequence[int]) -> Iterator[list[int]]:
    """Users with about as many events, as many as fit into one block."""
    group: list[int] = []
    most = 0
    for b in sorted((b for b, asked in enumerate(asked_B) if asked), key=lambda b: -held_B[b]):
        most = max(most, asked_B[b])
        pairs = (len(group) + 1) * most * (held_B[group[0]] if group else 0)
        if group and (held_B[b] < ALIKE * held_B[group[0]] or pairs > BLOCK_PAIRS):
            yield group
            group, most = [], asked_B[b]
        group.append(b)
    if group:
        yield group


def _block(rows: "Rows", events: "Events", user_G: Tensor, alike: bool) -> _Block:
    row_GR, real_GR = _places(rows.offsets, user_G)
    event_GT, _ = _places(events.offsets, user_G)
    limit_GR = torch.minimum(rows.limit[row_GR], events.offsets.diff()[user_G, None])
    position_GR = rows.position[row_GR]
    if alike:
        position_GR = torch.arange(row_GR.shape[1], device=row_GR.device)[None]
        limit_GR = position_GR + 1
    times = rows.at_ms[row_GR], events.at_ms[event_GT]
    real = real_GR.flatten().nonzero()[:, 0]
    return _Block(row_GR, event_GT, limit_GR, position_GR, times, real)


def _places(offsets: Tensor, user_G: Tensor) -> tuple[Tensor, Tensor]:
    """Indices [G, most] of the users' rows in the packed order, and which of them are no padding:
    that repeats a user's own last row."""
    first_G1, count_G1 = offsets[user_G, None], offsets.diff()[user_G, None]
    index = torch.arange(int(count_G1.max()), device=offsets.device)
    return first_G1 + torch.minimum(index, (count_G1 - 1).clamp(min=0)), index < count_G1


def _each_at_its_own_event(rows: "Rows", events: "Events") -> bool:
    """Whether the rows are the history itself: row j of a user at position j, seeing 0 .. j."""
    if not torch.equal(rows.offsets, events.offsets):
        return False
    first_R = torch.repeat_interleave(rows.offsets[:-1], rows.offsets.diff())
    own_R = torch.arange(len(first_R), device=first_R.device) - first_R
    return torch.equal(rows.position, own_R) and torch.equal(rows.limit, own_R + 1)


def _packed(outs: list[Tensor], blocks: list[_Block], like: Tensor) -> Tensor:
    """Rows of all blocks [G, H, R, X] in the order of the call: [R, H, X]."""
    if not outs:
        return like.new_zeros((0, *like.shape[1:]))
    row_R = torch.cat([block.row_GR.flatten()[block.real] for block in blocks])
    starts = [0, *accumulate(block.row_GR.numel() for block in blocks)]
    stands_R = torch.cat([block.real + start for block, start in zip(blocks, starts, strict=False)])
    padded = torch.cat([out.transpose(1, 2).flatten(0, 1) for out in outs])
    return padded.index_select(0, stands_R[row_R.argsort()])


def _taken(x: Tensor, places: list[Tensor]) -> list[Tensor]:
    """Rows of x for each block, in float32 if they were bfloat16. Taken together: the gradient of a
    part is then no larger than the part."""
    if not places:
        return []
    x = x.float() if x.dtype == torch.bfloat16 else x
    together = x.index_select(0, torch.cat([place.flatten() for place in places]))
    parts = together.split([place.numel() for place in places])
    return [part.view(*at.shape, *x.shape[1:]) for part, at in zip(parts, places, strict=True)]


def _entries(table: Tensor, index: Tensor) -> Tensor:
    return table.index_select(0, index.flatten()).view(index.shape)
