"""Versions that could not be served: why, and when to try them again."""

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass

from service.errors import VersionError
from service.metrics import ServingMetrics

log = logging.getLogger("serving.refusals")

REASONS = {
    "deltas between are missing": "gap", "twice": "duplicate", "out of order": "order",
    "signature": "signature", "last of its chain": "order", "missing": "missing",
    "truncated": "truncated", "altered": "altered", "format": "format",
}  # fmt: skip
"""Words of refusals and what they become as labels of freshet_versions_refused_total; else it is
damaged or model."""
FIRST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
"""How long a refused version is left alone: a second, then twice as long after every failure."""


@dataclass(frozen=True)
class Refused:
    """A version that this server cannot load, why, and when it is tried again."""

    number: int
    reason: str
    label: str
    wait_seconds: float
    again_at: float


class Refusals:
    """By number, what was refused. A version is counted once for each of its reasons."""

    def __init__(self, metrics: ServingMetrics) -> None:
        self._refused: dict[int, Refused] = {}
        self._metrics = metrics

    def all(self) -> list[Refused]:
        """Everything that is refused now."""
        return list(self._refused.values())

    def get(self, number: int) -> Refused | None:
        """Why a version is refused, if it is."""
        return self._refused.get(number)

    def waits(self, number: int) -> bool:
        """Whether it is too early to try this version again."""
        refused = self._refused.get(number)
        return refused is not None and time.monotonic() < refused.again_at

    def add(self, number: int, error: Exception) -> None:
        """A version could not be served."""
        before, label = self._refused.get(number), reason(error)
        wait_seconds = min(2 * before.wait_seconds, LONGEST_SECONDS) if before else FIRST_SECONDS
        again_at = time.monotonic() + wait_seconds
        self._refused[number] = Refused(number, str(error), label, wait_seconds, again_at)
        if before is None or before.label != label:
            self._metrics.versions_refused_total.labels(label).inc()
            fields = {"version": number, "reason": str(error)}
            log.error("version refused", extra={"fields": fields})

    def served(self, number: int) -> None:
        """A version is served after all."""
        self._refused.pop(number, None)

    def keep(self, numbers: Collection[int]) -> None:
        """Forget those that are gone from the directory."""
        self._refused = {n: refused for n, refused in self._refused.items() if n in numbers}


def reason(error: Exception) -> str:
    """The error as one of few metric labels; the log has its words."""
    if not isinstance(error, VersionError):
        return "model"
    return next((label for words, label in REASONS.items() if words in str(error)), "damaged")
