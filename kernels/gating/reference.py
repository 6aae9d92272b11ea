"""The specification, in plain torch."""

from torch import Tensor
from torch.nn.functional import layer_norm


def gated(attended_RW: Tensor, gate_RW: Tensor, eps: float) -> Tensor:
    """See `kernels.gating.gated`."""
    return layer_norm(attended_RW, attended_RW.shape[1:], eps=eps) * gate_RW
