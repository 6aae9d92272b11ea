"""Decayed counts per row at several half-lives: what the item prior is made of.

Shapes: R rows of the item table, N rows asked for, P half-lives.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from service.device import CPU
from service.histories.rings import Longs
from trainer.device import placed

RESCALE = 2.0**500
"""Origins move when the power of the present is above this: every 500 half-lives."""
LARGEST_POWER = 1000.0

Powers = npt.NDArray[np.float64]


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
        return (self._taken(rows_N) / placed(self._power(at_ms), self._device)).float()

    def reset(self, rows_N: Longs) -> None:
        """Forget rows that were freed."""
        freed_N = placed(rows_N, self._device)
        self._counts_RP.index_fill_(0, freed_N.clamp(max=len(self._counts_RP) - 1), 0)

    def state(self) -> dict[str, Tensor]:
        """Everything that later results depend on, on the CPU: not how far the array has grown."""
        return {"counts": _trimmed(self._counts_RP.cpu()).clone(), **self._times()}

    def cut(self, rows_M: Tensor) -> dict[str, Tensor]:
        """What a checkpoint's delta holds when these rows alone have been counted or reset."""
        return {"changed": self._taken(rows_M).cpu(), **self._times()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Become the object that returned `state`."""
        self._counts_RP = pad(state["counts"], (0, 0, 0, 1)).to(self._device)
        self._origin_ms_P = state["origin_ms"].numpy().copy()

    def _times(self) -> dict[str, Tensor]:
        return {
            "origin_ms": torch.from_numpy(self._origin_ms_P.copy()),
            "half_life_ms": torch.from_numpy(self._half_lives_ms.copy()),
        }

    def _taken(self, rows_N: Tensor) -> Tensor:
        rows_N = rows_N.to(self._device)
        return self._counts_RP[rows_N.clamp(max=len(self._counts_RP) - 1)]

    def _power(self, at_ms: int) -> Powers:
        return _power(at_ms, self._origin_ms_P, self._half_lives_ms)

    def _reserve(self, rows: int) -> None:
        if rows >= len(self._counts_RP):
            grown = max(rows + 1, 2 * len(self._counts_RP), 64)
            grown_RP = self._counts_RP.new_zeros(grown, len(self._half_lives_ms))
            grown_RP[: len(self._counts_RP)] = self._counts_RP
            self._counts_RP = grown_RP


def folded(
    state: Mapping[str, Tensor],
    cuts: Sequence[Mapping[str, Tensor]],
    rows: Sequence[Tensor],
    free_F: Tensor,
) -> dict[str, Tensor]:
    """The state after some `cut`s of these `rows` [M] each, with the rows that are free by then.

    `state` is empty before the first cut; it may be overwritten.
    """
    newest = cuts[-1]
    half_lives_ms, times = newest["half_life_ms"].numpy(), dict(newest)
    origin_ms_P = np.full(len(half_lives_ms), -1.0)
    counts_RP = newest["changed"].new_zeros(0, len(half_lives_ms))
    if state:
        counts_RP, origin_ms_P = state["counts"], state["origin_ms"].numpy()
    end = max([len(counts_RP), *(int(rows_M[-1]) + 1 for rows_M in rows)])
    counts_RP = pad(counts_RP, (0, 0, 0, end - len(counts_RP)))
    for cut, rows_M in zip(cuts, rows, strict=True):
        _move(counts_RP, origin_ms_P, cut["origin_ms"].numpy(), half_lives_ms)
        counts_RP[rows_M], origin_ms_P = cut["changed"], cut["origin_ms"].numpy()
    counts_RP[free_F[free_F < end]] = 0
    times.pop("changed")
    return {"counts": _trimmed(counts_RP), **times}


def sums(delta: Mapping[str, Tensor], origin_ms: int) -> Tensor:
    """Of a `cut`: sums of 2^((t - origin) / half-life) over each row's occurrences, [M, P],
    float32: counts that a server can take at any later time."""
    own_ms_P, half_lives_ms = delta["origin_ms"].numpy(), delta["half_life_ms"].numpy()
    shift_P = np.where(own_ms_P < 0, 0.0, own_ms_P - origin_ms) / half_lives_ms
    factor_P = np.exp2(np.clip(shift_P, -LARGEST_POWER, LARGEST_POWER))
    sums_MP: Tensor = delta["changed"] * torch.from_numpy(factor_P)
    return sums_MP.float()


def _move(counts_RP: Tensor, old_ms_P: Powers, new_ms_P: Powers, half_lives_ms: Powers) -> None:
    """What `add` does to all rows when it moves an origin."""
    power_P = _power(new_ms_P, old_ms_P, half_lives_ms)
    for p in np.flatnonzero((old_ms_P >= 0) & (old_ms_P != new_ms_P)).tolist():
        counts_RP[:, p] /= float(power_P[p])


def _power(at_ms: int | Powers, origin_ms_P: Powers, half_lives_ms: Powers) -> Powers:
    elapsed_P = np.where(origin_ms_P < 0, 0.0, at_ms - origin_ms_P)
    power_P: Powers = np.exp2(np.clip(elapsed_P / half_lives_ms, 0.0, LARGEST_POWER))
    return power_P


def _trimmed(counts_RP: Tensor) -> Tensor:
    """Without the rows behind the last one that was counted."""
    counted_R = counts_RP.any(1).nonzero()
    return counts_RP[: int(counted_R[-1]) + 1 if len(counted_R) else 0]
