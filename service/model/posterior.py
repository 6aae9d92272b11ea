"""How sure the action heads are of a score: draws of what it might be, for Thompson sampling.

The weights W_a of each head have a Gaussian posterior, their precision the sum that
`trainer.information` keeps (Bayesian linear regression on the last layer: Borisyuk et al.,
"LiRank", arXiv 2402.06859). A score is `sum_a weight_a W_a z` beside what is certain, and heads are
independent: so a draw of all W_a moves scores by `v z`, with v of covariance
`sum_a weight_a^2 A_a^-1`, whose factor is made once for a version.

Shapes: A action types, C candidates, D width, Z = D + 1: what the heads read, and 1 for their bias,
M draws.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from service.draws import Draw

FACTOR = "exploration.factor"
"""Name of the Cholesky factors [A, Z, Z] of the precisions among a snapshot's dense weights."""
DRAWS = 256
"""Draws of all scores, beside the one that a list is made by, that tell how probable it was."""


class Explored(NamedTuple):
    """What a draw has made of the scores of C candidates."""

    moved_C: Tensor
    """What it has added."""
    score_MC: Tensor
    """What the scores would be by DRAWS further draws."""


class Posterior:
    """Of one version's heads. Immutable."""

    def __init__(self, factor_AZZ: Tensor, weight_A: Tensor) -> None:
        """Factors of the precisions, and what each head's logit weighs in a score.

        Raises ValueError for what is no such factor.
        """
        width = factor_AZZ.shape[-1]
        if factor_AZZ.shape != (len(weight_A), width, width):
            raise ValueError(
                f"{FACTOR} is {list(factor_AZZ.shape)}, and there are {len(weight_A)} action types"
            )
        if not bool((factor_AZZ.diagonal(dim1=1, dim2=2) > 0).all()):
            raise ValueError(f"{FACTOR} has a diagonal that is not positive")
        self._factor_AZZ, self._weight_A = factor_AZZ, weight_A
        covariance_AZZ = torch.cholesky_inverse(factor_AZZ.double())
        covariance_ZZ = (weight_A.double().square()[:, None, None] * covariance_AZZ).sum(0)
        # Where no head weighs anything there is nothing to draw, and nothing to factor.
        heavy = bool(weight_A.any())
        self._spread_ZZ = (torch.linalg.cholesky(covariance_ZZ) if heavy else covariance_ZZ).float()

    def weighing(self, weight_A: Tensor) -> "Posterior":
        """That of the same heads where their logits weigh this."""
        if torch.equal(weight_A, self._weight_A):
            return self
        return Posterior(self._factor_AZZ, weight_A)

    @property
    def width(self) -> int:
        """D."""
        return len(self._spread_ZZ) - 1

    def explored(self, score_C: Tensor, inputs_CD: Tensor, draw: Draw) -> Explored:
        """Scores as they might be, of candidates whose heads read `inputs_CD`."""
        make = np.random.default_rng(draw.seed)
        normal_MZ = make.standard_normal((1 + DRAWS, len(self._spread_ZZ)), np.float32)
        v_MZ = draw.scale * (torch.from_numpy(normal_MZ) @ self._spread_ZZ.T)
        moved_MC = torch.addmm(v_MZ[:, -1:], v_MZ[:, :-1], inputs_CD.T)
        return Explored(moved_MC[0], score_C + moved_MC[1:])
