"""The state of a demo: what the live view shows and what `--once` prints."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from service.commands.simulation import Change, Simulation
from service.metrics import Readings


@dataclass(frozen=True)
class Summary:
    """What a demo saw so far. Times in seconds.

    `actions_per_second` were trained over the last seconds; hit rates are those of the trainer's
    last 2,000 scored events; the delay runs from sending an action to the first answer that it
    changed.
    """

    seconds: float
    actions_appended: int
    actions_trained: int
    actions_per_second: float
    version: int
    version_age_seconds: float
    loss: float
    hit_rate_at_10: dict[str, float]
    visits: int
    clicks: int
    action_to_ranking_p50_seconds: float | None
    action_to_ranking_p99_seconds: float | None
    change: Change | None
    docs_url: str

    @classmethod
    def of(
        cls,
        trainer: Readings,
        server: Readings,
        simulation: Simulation,
        *,
        seconds: float,
        actions_per_second: float,
        change: Change | None,
        docs_url: str,
    ) -> "Summary":
        """Put together what trainer, server and feed say of themselves."""
        delays_seconds = list(simulation.delays_seconds)
        return cls(
            seconds=round(seconds, 3),
            actions_appended=simulation.appended,
            actions_trained=int(trainer.get("actions_total", outcome="trained")),
            actions_per_second=round(actions_per_second, 1),
            version=int(server.get("version")),
            version_age_seconds=round(server.get("version_age_seconds"), 3),
            loss=round(trainer.get("loss"), 4),
            hit_rate_at_10=trainer.by_label("hit_rate", "model"),
            visits=simulation.visits,
            clicks=simulation.clicks,
            action_to_ranking_p50_seconds=_quantile(delays_seconds, 0.5),
            action_to_ranking_p99_seconds=_quantile(delays_seconds, 0.99),
            change=change,
            docs_url=docs_url,
        )

    @property
    def convincing(self) -> bool:
        """Whether the model clearly beats popularity and several delays were measured."""
        rates = self.hit_rate_at_10
        beaten = rates.get("online", 0.0) > 1.5 * rates.get("popularity", 1.0)
        return beaten and self.version > 2 and self.visits >= 20

    def to_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(asdict(self))


def _quantile(values: Sequence[float], share: float) -> float | None:
    return round(float(np.quantile(values, share)), 4) if values else None
