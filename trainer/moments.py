"""Second moments of what enters the layers' matrices: 4-bit weights are fitted to them.

Each step adds those of a sample of its rows, and what was there before fades.

Shapes: R rows, I inputs of a matrix.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from service.model.network import Network

DECAY = 0.99
"""What is left of a sum after one step: half of it after 69."""
SAMPLE = 64
"""Rows that are looked at, of those that pass through a matrix at once."""


class Moments:
    """One decayed sum of x x^T [I, I] for each matrix of the layers, by the name of its weight.

    Only ratios mean anything: each pass of rows through a matrix counts alike.
    """

    def __init__(self, network: Network, device: torch.device) -> None:
        layers = network.hstu.named_modules(prefix="hstu")
        self._names = {
            matrix: f"{name}.weight" for name, matrix in layers if isinstance(matrix, nn.Linear)
        }
        self._sums = {
            name: torch.zeros(matrix.in_features, matrix.in_features, device=device)
            for matrix, name in self._names.items()
        }

    def sample(self) -> "Sample":
        """What watches one part of a step."""
        return Sample(self._names)

    @torch.no_grad()
    def add(self, samples: Sequence["Sample"]) -> None:
        """The parts of one step, in order. Sums that would not be finite stay as they are."""
        for name, sum_II in self._sums.items():
            moved_II = sum_II * DECAY
            for sample in samples:
                for moments_II in sample.found[name]:
                    moved_II += moments_II
            sum_II.copy_(torch.where(moved_II.isfinite().all(), moved_II, sum_II))

    def state(self) -> dict[str, Tensor]:
        """Copies on the CPU, by the names of the weights."""
        return {name: sum_II.to("cpu", copy=True) for name, sum_II in self._sums.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on with what `state` returned. A checkpoint may have none: then they begin at zero."""
        for name, sum_II in state.items():
            self._sums[name].copy_(sum_II)


class Sample:
    """A watch (`service.model.watching`): the mean of x x^T over evenly spaced rows."""

    def __init__(self, names: dict[nn.Linear, str]) -> None:
        self._names = names
        self.found: dict[str, list[Tensor]] = {name: [] for name in names.values()}

    @torch.no_grad()
    def __call__(self, matrix: nn.Linear, x_RI: Tensor) -> None:
        """Take some of the rows."""
        x_RI = x_RI[:: max(1, len(x_RI) // SAMPLE)].float()
        if len(x_RI):
            self.found[self._names[matrix]].append(x_RI.T @ x_RI / len(x_RI))
