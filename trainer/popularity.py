"""Decayed counts per row at several half-lives: what the item prior is made of.

Shapes: R rows of the item table, N rows asked for, P half-lives.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.histories.rings import Longs

RESCALE = 2.0**40
LARGEST_POWER = 1000.0


class Popularity:
    """Counts that halve every half-life of event time.

    Nothing is decayed in place: an occurrence at time t adds 2^((t - origin) / half-life), and a
    read divides by the same power of its own time. Origins move when the power grows large.
    """

    def __init__(self, half_lives_seconds: Sequence[float]) -> None:
        self._half_lives_ms = np.array(half_lives_seconds) * 1000
        self._counts_RP = np.zeros((0, len(half_lives_seconds)))
        self._origin_ms_P = np.full(len(half_lives_seconds), -1.0)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that grows."""
        return int(self._counts_RP.nbytes)

    def add(self, rows_N: Longs, at_ms: int) -> None:
        """Count one occurrence of each row at a common time; rows may repeat."""
        self._reserve(int(rows_N.max(initial=-1)) + 1)
        self._origin_ms_P[self._origin_ms_P < 0] = at_ms
        power_P = self._power(at_ms)
        for p in np.flatnonzero(power_P > RESCALE):
            self._counts_RP[:, p] /= power_P[p]
            self._origin_ms_P[p] = at_ms
        rows, times = np.unique(rows_N, return_counts=True)
        self._counts_RP[rows] += times[:, None] * self._power(at_ms)

    def counts(self, rows_N: Longs, at_ms: int) -> Tensor:
        """Decayed counts [N, P], float32, as of a time."""
        self._reserve(int(rows_N.max(initial=-1)) + 1)
        return torch.from_numpy(self._counts_RP[rows_N] / self._power(at_ms)).float()

    def reset(self, rows_N: Longs) -> None:
        """Forget rows that were freed."""
        self._counts_RP[rows_N[rows_N < len(self._counts_RP)]] = 0

    def state(self) -> dict[str, Tensor]:
        """Everything that later results depend on: not how far the array has grown."""
        used = int(np.flatnonzero(self._counts_RP.any(axis=1)).max(initial=-1)) + 1
        return {
            "counts": torch.from_numpy(self._counts_RP[:used].copy()),
            "origin_ms": torch.from_numpy(self._origin_ms_P.copy()),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Become the object that returned `state`."""
        self._counts_RP = state["counts"].numpy().copy()
        self._origin_ms_P = state["origin_ms"].numpy().copy()

    def _power(self, at_ms: int) -> npt.NDArray[np.float64]:
        elapsed = np.where(self._origin_ms_P < 0, 0.0, at_ms - self._origin_ms_P)
        power_P: npt.NDArray[np.float64] = np.exp2(
            np.clip(elapsed / self._half_lives_ms, 0.0, LARGEST_POWER)
        )
        return power_P

    def _reserve(self, rows: int) -> None:
        if rows > len(self._counts_RP):
            grown = np.zeros((max(rows, 2 * len(self._counts_RP), 64), len(self._half_lives_ms)))
            grown[: len(self._counts_RP)] = self._counts_RP
            self._counts_RP = grown
