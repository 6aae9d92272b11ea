"""Decayed counts per row at several half-lives: what the item prior is made of.

Shapes: R rows of the item table, N rows asked for, P half-lives.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from service.histories.rings import Longs
from trainer.device import CPU, placed

RESCALE = 2.0**40
LARGEST_POWER = 1000.0


class Popularity:
    """Counts that halve every half-life of event time.

    Nothing is decayed in place: an occurrence at time t adds 2^((t - origin) / half-life), and a
    read divides by the same power of its own time. Origins move when the power grows large.
    """

    def __init__(self, half_lives_seconds: Sequence[float], device: torch.device = CPU) -> None:
        self._half_lives_ms, self._device = np.array(half_lives_seconds) * 1000, device
        # The last row is nobody's: rows that were never counted read it.
        self._counts_RP = torch.zeros(
            1, len(half_lives_seconds), dtype=torch.float64, device=device
        )
        self._origin_ms_P = np.full(len(half_lives_seconds), -1.0)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that grows."""
        return self._counts_RP.nbytes

    def add(self, rows_N: Longs, at_ms: int) -> None:
        """Count one occurrence of each row at a common time; rows may repeat."""
        self._reserve(int(rows_N.max(initial=-1)) + 1)
        self._origin_ms_P[self._origin_ms_P < 0] = at_ms
        power_P = self._power(at_ms)
        for p in np.flatnonzero(power_P > RESCALE).tolist():
            self._counts_RP[:, p] /= float(power_P[p])
            self._origin_ms_P[p] = at_ms
        rows, times = np.unique(rows_N, return_counts=True)
        added = placed(times[:, None] * self._power(at_ms), self._device)
        self._counts_RP.index_add_(0, placed(rows, self._device), added)

    def counts(self, rows_N: Tensor, at_ms: int) -> Tensor:
        """Decayed counts [N, P], float32, as of a time."""
        counts_NP = self._counts_RP[rows_N.clamp(max=len(self._counts_RP) - 1)]
        return (counts_NP / placed(self._power(at_ms), self._device)).float()

    def reset(self, rows_N: Longs) -> None:
        """Forget rows that were freed."""
        freed_N = placed(rows_N, self._device)
        self._counts_RP.index_fill_(0, freed_N.clamp(max=len(self._counts_RP) - 1), 0)

    def state(self) -> dict[str, Tensor]:
        """Everything that later results depend on, on the CPU: not how far the array has grown."""
        counts_RP = self._counts_RP.cpu()
        used = int(counts_RP.any(1).nonzero().max()) + 1 if counts_RP.any() else 0
        return {
            "counts": counts_RP[:used].clone(),
            "origin_ms": torch.from_numpy(self._origin_ms_P.copy()),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Become the object that returned `state`."""
        self._counts_RP = pad(state["counts"], (0, 0, 0, 1)).to(self._device)
        self._origin_ms_P = state["origin_ms"].numpy().copy()

    def _power(self, at_ms: int) -> npt.NDArray[np.float64]:
        elapsed = np.where(self._origin_ms_P < 0, 0.0, at_ms - self._origin_ms_P)
        power_P: npt.NDArray[np.float64] = np.exp2(
            np.clip(elapsed / self._half_lives_ms, 0.0, LARGEST_POWER)
        )
        return power_P

    def _reserve(self, rows: int) -> None:
        if rows >= len(self._counts_RP):
            grown = max(rows + 1, 2 * len(self._counts_RP), 64)
            grown_RP = self._counts_RP.new_zeros(grown, len(self._half_lives_ms))
            grown_RP[: len(self._counts_RP)] = self._counts_RP
            self._counts_RP = grown_RP
