"""How much shown items have told of the action heads' weights: what exploration is measured by.

The Hessian of the heads' loss in the weights of one action type is `sum counted p (1 - p) z z^T`
over the targets, their Fisher information: with a Gaussian prior it is the precision of the weights
in Laplace's approximation (Chapelle and Li, "An empirical evaluation of Thompson sampling", NIPS
2011, algorithm 3, there of the diagonal). The last layer alone is taken to be uncertain, and what
it reads is not (the Bayesian linear last layer of Borisyuk et al., "LiRank", arXiv 2402.06859); as
that goes on learning, what older targets have told fades.

Shapes: R targets, A action types, D width, Z = D + 1: what the heads read, and 1 for their bias.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from service.model.posterior import FACTOR

SUMS = "sums"
Tensors = dict[str, Tensor]


class Information:
    """One decayed sum [Z, Z] for each action type, float64."""

    def __init__(self, heads: nn.Linear, half_life: float, device: torch.device) -> None:
        """half_life: shown items after which what was there before counts a half."""
        width = heads.in_features + 1
        shape = heads.out_features, width, width
        self._sums_AZZ = torch.zeros(shape, dtype=torch.float64, device=device)
        self._half_life = half_life

    @torch.no_grad()
    def add(self, inputs_RD: Tensor, logits_RA: Tensor, counted_RA: Tensor) -> None:
        """Targets of a step that was trained, as the loss had them (`trainer.objective`)."""
        z_RZ = pad(inputs_RD, (0, 1), value=1.0)
        chance_RA = torch.sigmoid(logits_RA)
        weight_AR = (counted_RA * chance_RA * (1 - chance_RA)).T
        self._sums_AZZ *= 0.5 ** (len(z_RZ) / self._half_life)
        self._sums_AZZ += (weight_AR[:, None] * z_RZ.T) @ z_RZ

    def state(self) -> Tensors:
        """A copy of the sums on the CPU."""
        return {SUMS: self._sums_AZZ.to("cpu", copy=True)}

    def load(self, state: Tensors) -> None:
        """Become what returned `state`; an empty one, of a version without, knows nothing."""
        if SUMS in state:
            self._sums_AZZ.copy_(state[SUMS])


def factor_of(state: Tensors, prior: float) -> Tensors:
    """For servers: the Cholesky factors [A, Z, Z] of the weights' precision, lower, float32, of
    what `Information.state` returned; nothing of nothing.

    prior: standard deviation of log odds before there was a target. Heads read vectors of length
    sqrt(Z), so a weight's own is prior / sqrt(Z).
    """
    if SUMS not in state:
        return {}
    sums_AZZ, width = state[SUMS], state[SUMS].shape[-1]
    prior_ZZ = torch.eye(width, dtype=torch.float64) * (width / prior**2)
    return {FACTOR: torch.linalg.cholesky(sums_AZZ + prior_ZZ).float()}
