"""The specification, in plain torch: see `kernels.stack.Stack`."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, silu

from kernels.attention.buckets import time_bucket
from kernels.stack.layout import LANES


def read(x_ND: Any, at_ms_T: Any, keys_LHKS: Any, values_LHTV: Any, *weights: Any) -> None:
    """Fill in the last N events of keys and values."""
    *layers, alpha, scale, eps = weights
    x_ND, at_ms_T = torch.from_numpy(x_ND).clone(), torch.from_numpy(at_ms_T)
    events, before = len(at_ms_T), len(at_ms_T) - len(x_ND)
    place_T = torch.arange(events)
    ahead_NT = place_T[before:, None] - place_T
    gap_NT = at_ms_T[before:, None] - at_ms_T
    for n, (project, project_bias, output, output_bias, near, when) in enumerate(
        zip(*(torch.from_numpy(one) for one in layers), strict=True)
    ):
        keys, values = torch.from_numpy(keys_LHKS[n]), torch.from_numpy(values_LHTV[n])
        u, q, k, v = _projected(x_ND, project, project_bias, keys.shape, values.shape, eps)
        keys[..., before:events], values[:, before:] = k.permute(1, 2, 0), v.transpose(0, 1)
        nearest = len(near) - LANES
        bias_NT = near[nearest - ahead_NT.clamp(min=0)] + when[time_bucket(gap_NT)]
        weights_HNT = _weights(q, keys[..., :events], bias_NT, alpha, scale) * (ahead_NT >= 0)
        attended = (weights_HNT @ values).transpose(0, 1).flatten(1)
        x_ND = x_ND + (layer_norm(attended, u.shape[1:], eps=eps) * u) @ output + output_bias


def ask(
    share: int, shares: int, x_RD: Any, alone: int, at_ms: int, at_ms_T: Any, keys_LHKS: Any,
    values_LHTV: Any, *weights: Any,
) -> None:  # fmt: skip
    """The last layer's rows in the place of x. The first share does everything."""
    if share:
        return
    *layers, own_L, alpha, scale, eps, weighed_RT = weights
    x, events = torch.from_numpy(x_RD), len(at_ms_T)
    ahead_T = events - torch.arange(events)
    gap_T = at_ms - torch.from_numpy(at_ms_T)
    for n, (project, project_bias, output, output_bias, near, when) in enumerate(
        zip(*(torch.from_numpy(one) for one in layers), strict=True)
    ):
        keys, values = torch.from_numpy(keys_LHKS[n]), torch.from_numpy(values_LHTV[n])
        u, q, k, v = _projected(x, project, project_bias, keys.shape, values.shape, eps)
        bias_T = near[len(near) - LANES - ahead_T] + when[time_bucket(gap_T)]
        weights_HRT = _weights(q, keys[..., :events], bias_T, alpha, scale)
        attended_RHV = (weights_HRT @ values).transpose(0, 1)
        share_RH = silu((q * k).sum(2) * alpha + own_L[n]) * scale
        attended_RHV[alone:] += (share_RH.unsqueeze(2) * v)[alone:]
        attended = attended_RHV.flatten(1)
        x += (layer_norm(attended, u.shape[1:], eps=eps) * u) @ output + output_bias
        if len(weighed_RT):
            lengths_HT = values.norm(dim=2)
            weighed_RT += (weights_HRT.abs() * lengths_HT.unsqueeze(1)).sum(0).numpy()


def _projected(
    x_RD: Tensor, weight_DP: Tensor, bias_P: Tensor, keys: Any, values: Any, eps: float
) -> list[Tensor]:
    """Gate [R, H V], queries [R, H, K], keys [R, H, K] and values [R, H, V]."""
    (heads, width, _), value_width = keys, values[2]
    all_RP = silu(layer_norm(x_RD, x_RD.shape[1:], eps=float(eps)) @ weight_DP + bias_P)
    wide, narrow = heads * value_width, heads * width
    u, *others = all_RP.split((wide, narrow, narrow, wide), 1)
    return [u, *(one.unflatten(1, (heads, -1)) for one in others)]


def _weights(
    q_RHK: Tensor, keys_HKT: Tensor, bias: Tensor, alpha: float, scale: float
) -> Tensor:  # fmt: skip
    return silu(q_RHK.transpose(0, 1) @ keys_HKT * alpha + bias) * scale
