"""The specification, in plain torch: one dense block per user, gradients by autograd."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import silu

from kernels.attention.buckets import distance_bucket, time_bucket

if TYPE_CHECKING:
    from kernels.attention import Events, Rows


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
    """See `kernels.attention.attention`. Of bfloat16 inputs the sums are float32."""
    given, out = q_RHK.dtype, []
    if given == torch.bfloat16:
        q_RHK, k_THK, v_THV = q_RHK.float(), k_THK.float(), v_THV.float()
        distance_bias_P, time_bias_S = distance_bias_P.float(), time_bias_S.float()
    row_ends, event_ends = rows.offsets.tolist(), events.offsets.tolist()
    for b in range(len(row_ends) - 1):
        asking = slice(row_ends[b], row_ends[b + 1])
        seen = slice(event_ends[b], event_ends[b + 1])
        alike = _alike(rows, asking)
        bias_of = slice(asking.start, asking.start + 1) if alike else asking
        if alike:  # what nobody sees need not be masked
            seen = slice(seen.start, min(seen.stop, seen.start + int(rows.limit[asking.start])))
        position_T = torch.arange(seen.stop - seen.start, device=rows.limit.device)
        limit_R1 = rows.limit[bias_of, None]
        distance_RT = (rows.position[bias_of, None] - position_T).clamp(min=0)
        gap_RT = rows.at_ms[bias_of, None] - events.at_ms[seen]
        bias_RT = distance_bias_P[distance_bucket(distance_RT)] + time_bias_S[time_bucket(gap_RT)]
        q_HRK, k_HKT = q_RHK[asking].transpose(0, 1), k_THK[seen].permute(1, 2, 0)
        logits_HRT = torch.baddbmm(bias_RT, q_HRK, k_HKT, alpha=alpha)
        weights_HRT = silu(logits_HRT)
        if not alike:
            weights_HRT = torch.where(position_T < limit_R1, weights_HRT, 0.0)
        out.append(torch.einsum("hrt,thv->rhv", weights_HRT, v_THV[seen] / length))
    return torch.cat(out).to(given) if out else v_THV.new_zeros((0, *v_THV.shape[1:])).to(given)


def _alike(rows: "Rows", asking: slice) -> bool:
    """Whether all rows ask from one place at one time, as candidates of a request do: the bias of
    one serves them all."""
    columns = (rows.limit[asking], rows.position[asking], rows.at_ms[asking])
    return len(columns[0]) > 0 and all(bool((c == c[0]).all()) for c in columns)
