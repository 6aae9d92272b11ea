"""Event time as a table knows it: the present, and what an occurrence weighs at a time."""

from dataclasses import replace

import torch
from torch import Tensor

from kernels.rows import Decay

_NOT_SET_MS = -(2**63)


class Clock:
    """Starts with the first occurrence or watermark; only watermarks move it, and never back."""

    def __init__(self, half_life_seconds: float) -> None:
        self._half_life_ms = round(half_life_seconds * 1000)
        self.decay = Decay(self._half_life_ms)
        self._started = False

    @property
    def now_ms(self) -> int:
        """The present; 0 before it started."""
        return self.decay.now_ms

    def start(self, at_ms_N: Tensor) -> None:
        """Begin at the first occurrence, if nothing has begun yet."""
        if not self._started and len(at_ms_N):
            self._begin(int(at_ms_N[0]))

    def advance(self, watermark_ms: int) -> float:
        """Time passes. Returns what all weights must be multiplied by: 1, but for one time in 64
        half-lives."""
        if not self._started:
            self._begin(watermark_ms)
        now_ms = max(self.now_ms, watermark_ms)
        landmark_ms = Decay.landmark_for(self._half_life_ms, now_ms)
        moved, factor = self.decay.moved_to(landmark_ms)
        self.decay = replace(moved, now_ms=now_ms)
        return factor

    def state(self) -> dict[str, Tensor]:
        """All times in ms."""
        now_ms = self.now_ms if self._started else _NOT_SET_MS
        return {
            "decay.landmark_ms": torch.tensor(self.decay.landmark_ms),
            "decay.now_ms": torch.tensor(now_ms),
            "decay.half_life_ms": torch.tensor(self._half_life_ms),
        }

    def load(self, state: dict[str, Tensor]) -> float:
        """Become what returned `state`. Returns what all weights must be multiplied by: 1, unless
        they were of another half-life; then the present's counts stay what they were."""
        now_ms = int(state["decay.now_ms"])
        self._started = now_ms != _NOT_SET_MS
        if not self._started:
            self.decay = Decay(self._half_life_ms)
            return 1.0
        self._begin(now_ms)
        half_life_ms, landmark_ms = state["decay.half_life_ms"], state["decay.landmark_ms"]
        saved = Decay(int(half_life_ms), int(landmark_ms), now_ms)
        if saved.half_life_ms == self._half_life_ms:
            self.decay = saved
        return self.decay.weight(now_ms) / saved.weight(now_ms)

    def _begin(self, now_ms: int) -> None:
        landmark_ms = Decay.landmark_for(self._half_life_ms, now_ms)
        self.decay, self._started = Decay(self._half_life_ms, landmark_ms, now_ms), True
