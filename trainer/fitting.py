"""Dense weights of a version, with 4-bit codes of those that are fitted to their inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kernels import quantease
from kernels.quantease import GridCodes
from service.model.posterior import FACTOR
from service.versions import Snapshot
from service.versions.dense import Dense
from trainer.information import factor_of
from trainer.state import Tensors

COLD, WARM = 20, 2
"""Passes of coordinate descent: without and with codes of the version before."""


@dataclass(frozen=True, eq=False)
class Weights:
    """What was trained, and the codes that stand for it in 4 bits."""

    full: Tensors
    fitted: dict[str, GridCodes] = field(default_factory=dict)
    """By the name of the weight; the others are rounded."""
    beside: Tensors = field(default_factory=dict)
    """What servers get with them and is no part of the network; it stays exact."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Weights":
        """Those of a snapshot: what its codes stand for, and the codes."""
        fitted = {
            n: weight for n, weight in snapshot.dense.items() if isinstance(weight, GridCodes)
        }
        full = snapshot.weights()
        factor_AZZ = full.pop(FACTOR, None)
        return cls(full, fitted, {} if factor_AZZ is None else {FACTOR: factor_AZZ})

    def fit_to(
        self, moments: Tensors, precision: Mapping[str, str], before: "Weights"
    ) -> "Weights":
        """Fitted where 4 bits are wanted and moments of the inputs are known (`trainer.moments`),
        warm from the codes of `before`."""
        fitted = {}
        for name, moments_II in moments.items():
            weight_OI, warm = self.full[name], before.fitted.get(name)
            if precision.get(name) != "int4" or weight_OI.shape[1] % 2:
                continue  # two codes share a byte
            passes = COLD if warm is None else WARM
            try:
                fitted[name] = quantease.fitted(weight_OI, moments_II, warm, passes=passes)
            except ValueError:
                continue  # not finite: the gate says so
        return Weights(self.full, fitted, self.beside)

    def with_factor(self, information: Tensors, prior: float) -> "Weights":
        """With what servers explore by, where it is known (`trainer.information`)."""
        return replace(self, beside=factor_of(information, prior))

    def at(self, precision: Mapping[str, str]) -> dict[str, Dense]:
        """What is to be coded in these precisions, and where it is fitted what is coded already;
        of the network alone."""
        return {**self.full, **self.published(precision).fitted}

    def published(self, precision: Mapping[str, str]) -> "Weights":
        """With the codes that a version of these precisions has, and no others."""
        kept = {n: codes for n, codes in self.fitted.items() if precision.get(n) == "int4"}
        return Weights(self.full, kept, self.beside)
