"""Decayed counts that never need to be touched again: forward decay.

An occurrence at time t weighs g(t) = 2^((t - landmark) / half_life), and the decayed count now is
a row's sum of weights over g(now) (Cormode, Shkapenyuk, Srivastava and Xu, 2009). g rises in 256
steps a half-life and is made of a table and an exponent, so that every backend has the same bits.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

STEPS = 256
"""Steps of g in one half-life."""

TABLE = np.array([2.0 ** (step / STEPS) for step in range(STEPS)], np.float32)
"""g within the half-life that follows the landmark."""

FIRST_EXPONENT, LAST_EXPONENT = -126, 120
"""g stays within 2^-126 .. 2^120: normal float32, with room to add up."""

LANDMARK_HALF_LIVES = 64
_LONGEST_MS, _LATEST_MS = 2**47, 2**62


@dataclass(frozen=True)
class Decay:
    """Half-life of counts (None: they do not decay), where weights start from 1, and the present.

    `now_ms` is what FrequencySgd's counts are taken at. Raises ValueError for a half-life outside
    1 .. 2^47 ms (4,459 years) or a landmark outside +-2^62 ms.
    """

    half_life_ms: int | None
    landmark_ms: int = 0
    now_ms: int = 0

    def __post_init__(self) -> None:
        if self.half_life_ms is not None and not 1 <= self.half_life_ms <= _LONGEST_MS:
            raise ValueError(f"a half-life of {self.half_life_ms} ms is outside 1 .. 2^47 ms")
        if abs(self.landmark_ms) > _LATEST_MS:
            raise ValueError(f"a landmark at {self.landmark_ms} ms is outside +-2^62 ms")

    @staticmethod
    def landmark_for(half_life_ms: int | None, now_ms: int) -> int:
        """The latest multiple of 64 half-lives: weights of the present stay below 2^64."""
        if half_life_ms is None:
            return 0
        every_ms = LANDMARK_HALF_LIVES * half_life_ms
        return now_ms // every_ms * every_ms

    @property
    def first_ms(self) -> int:
        """Times up to here weigh 2^-126 each."""
        return self.landmark_ms + FIRST_EXPONENT * (self.half_life_ms or 0)

    @property
    def last_ms(self) -> int:
        """Times from here on weigh 2^120 each."""
        return self.landmark_ms + LAST_EXPONENT * (self.half_life_ms or 0)

    def weights(self, at_ms_N: Tensor) -> Tensor:
        """g of each time (int64), float32 on the same device.

        k = floor((t - landmark) * 256 / half_life) within -126 * 256 .. 120 * 256, and
        g = TABLE[k mod 256] * 2^floor(k / 256), the power added to the float's exponent.
        """
        if self.half_life_ms is None:
            return torch.ones(at_ms_N.shape, device=at_ms_N.device)
        since_N = at_ms_N.clamp(self.first_ms, self.last_ms) - self.first_ms
        k_N = torch.div(since_N * STEPS, self.half_life_ms, rounding_mode="floor")
        powers_N = (k_N // STEPS + FIRST_EXPONENT).int() << 23
        table = torch.from_numpy(TABLE.view(np.int32)).to(at_ms_N.device)
        return (table[k_N % STEPS] + powers_N).view(torch.float32)

    def weight(self, at_ms: int) -> float:
        """g of one time."""
        return float(self.weights(torch.tensor([at_ms])))

    def count(self, weight_N: Tensor, now_ms: int) -> Tensor:
        """Decayed counts at a time, of rows' sums of weights."""
        return weight_N / self.weight(now_ms)

    def moved_to(self, landmark_ms: int) -> tuple["Decay", float]:
        """The same decay from another landmark, and the power of two that turns old sums of
        weights into new ones. ValueError unless it is whole half-lives away."""
        if self.half_life_ms is None:
            return replace(self, landmark_ms=landmark_ms), 1.0
        half_lives, rest = divmod(landmark_ms - self.landmark_ms, self.half_life_ms)
        if rest:
            raise ValueError(
                f"landmark {landmark_ms} ms is no whole number of half-lives of "
                f"{self.half_life_ms} ms from {self.landmark_ms} ms; use Decay.landmark_for"
            )
        return replace(self, landmark_ms=landmark_ms), math.ldexp(1.0, -half_lives)
