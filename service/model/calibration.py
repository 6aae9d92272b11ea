"""From a head's log odds to the chance that is served: one monotone map per action type.

A map is piecewise linear in log odds between its knots and has slope 1 beyond them. It never falls,
so it changes no order; where it is flat, items that the head tells apart get the same chance, and
scores therefore stay sums of the heads' own log odds. A monotone layer behind a ranking model's
head is that of Borisyuk et al., "LiRank" (arXiv 2402.06859); theirs is trained with the model, ours
is fitted to what the model predicted before it learned (`trainer.calibration`).

Shapes: A action types, K knots, P = K - 1 pieces between them, S pieces in all, N rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

CALIBRATION = "calibration"
"""Name of the maps among the facts of a snapshot."""
AT, TO = "at", "to"


class Calibration:
    """The maps of all action types. Immutable."""

    def __init__(self, at_AK: Tensor, to_AK: Tensor) -> None:
        """Log odds of the heads, float64, each row rising, and what they become, none falling.

        Without knots nothing changes. Raises ValueError for what is no such map.
        """
        if at_AK.ndim != 2 or at_AK.shape != to_AK.shape:
            raise ValueError(f"knots are {list(at_AK.shape)}, their images {list(to_AK.shape)}")
        if not bool(at_AK.isfinite().all() and to_AK.isfinite().all()):
            raise ValueError("knots or their images are NaN or infinite")
        if bool((at_AK.diff() <= 0).any()) or bool((to_AK.diff() < 0).any()):
            raise ValueError("knots must rise and their images must not fall")
        self.at_AK, self.to_AK = at_AK.contiguous(), to_AK
        slope_AP = to_AK.diff() / at_AK.diff()
        if not bool(slope_AP.isfinite().all()):
            raise ValueError("knots are so near that a slope between them is infinite")
        edge_A1 = torch.ones(len(at_AK), 1, dtype=torch.float64)
        self._first_AS = torch.cat([at_AK[:, :1], at_AK], dim=1)
        self._from_AS = torch.cat([to_AK[:, :1], to_AK], dim=1)
        self._slope_AS = torch.cat([edge_A1, slope_AP, edge_A1], dim=1)
        self._most_AS = torch.cat([to_AK, edge_A1 * torch.inf], dim=1)

    def __call__(self, logits_NA: Tensor) -> Tensor:
        """Calibrated log odds, float32 [N, A]; they never fall where a logit rises."""
        if not self.at_AK.shape[1]:
            return logits_NA
        x_AN = logits_NA.T.double().contiguous()
        piece_AN = torch.searchsorted(self.at_AK, x_AN, right=True)
        first_AN, from_AN, slope_AN, most_AN = (
            table_AS.gather(1, piece_AN)
            for table_AS in (self._first_AS, self._from_AS, self._slope_AS, self._most_AS)
        )
        # Each step keeps the order in floating point as well; the minimum does at a piece's end.
        return torch.minimum(from_AN + (x_AN - first_AN) * slope_AN, most_AN).T.float()

    def chances(self, logits_NA: Tensor) -> Tensor:
        """Calibrated chances, float32 [N, A]."""
        return torch.sigmoid(self(logits_NA))

    @classmethod
    def none(cls, action_types: int) -> Calibration:
        """The maps that change nothing."""
        return cls(*torch.zeros(2, action_types, 0, dtype=torch.float64))

    def described(self, names: Iterable[str]) -> dict[str, dict[str, list[float]]]:
        """As a snapshot has it: knots and their images by action type, of those `names`."""
        rows = zip(names, self.at_AK.tolist(), self.to_AK.tolist(), strict=True)
        return {name: {AT: at_K, TO: to_K} for name, at_K, to_K in rows}

    @classmethod
    def of_description(cls, described: Mapping[str, Any], names: Iterable[str]) -> Calibration:
        """The maps that `described` themselves; of nothing, as in a snapshot from before there was
        calibration, those that change nothing. Raises ValueError for what is no map."""
        names = list(names)
        if not described:
            return cls.none(len(names))
        try:
            of_all = [[described[name][kind] for name in names] for kind in (AT, TO)]
            return cls(*(torch.tensor(rows, dtype=torch.float64) for rows in of_all))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"its calibration cannot be used: {error!r}") from None
