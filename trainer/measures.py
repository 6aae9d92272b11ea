"""What the trainer's metrics say of its state, refreshed now and then."""

from collections.abc import Mapping

from service.metrics import LagClock, Tally, TrainerMetrics
from service.streams.protocol import Lag
from trainer.cuts import Position
from trainer.teaching import Teacher

REFUSALS = ("full", "spared")
"""Why an id that earned a row got none."""
LIMITS = ("evicted", "refused", "shortened")
"""What the cap on memory did to histories: totals that they keep under these names."""


class Measures:
    """Totals that a resumed state brings along are where the counters begin."""

    def __init__(self, teacher: Teacher, metrics: TrainerMetrics) -> None:
        self._teacher, self._metrics = teacher, metrics
        self._tally = Tally()
        self._lag = LagClock()
        self._store()

    def take(self, position: Position, lag: Mapping[str, Lag]) -> None:
        """Refresh everything. `lag`: what of each topic was not learned, where that is known."""
        metrics = self._metrics
        for model, rate in self._teacher.evaluation.hit_rates().items():
            metrics.hit_rate.labels(model).set(rate)
        for (action, chance), error in self._teacher.calibration_errors().items():
            metrics.calibration_error.labels(action, chance).set(error)
        metrics.block.set(self._teacher.state.block)
        metrics.watermark_seconds.set(position.watermark_ms / 1000)
        if lag:
            records = sum(one.records for one in lag.values())
            metrics.stream_lag_records.set(records)
            metrics.stream_lag_seconds.set(self._lag.seconds(records, position.last_append_ms))
        for topic, one in lag.items():
            metrics.stream_retention_margin_ratio.labels(topic).set(one.margin)
        joiner = self._teacher.state.joiner
        for stage, number in joiner.numbers().items():
            metrics.impressions_waiting.labels(stage).set(number)
        metrics.join_spilled_bytes.set(joiner.waiting.spilled_bytes)
        self._store()

    def _store(self) -> None:
        state, metrics, tell = self._teacher.state, self._metrics, self._tally.tell
        items, histories = state.items, state.histories
        metrics.store_rows.labels("item").set(len(items))
        metrics.store_waiting.labels("item").set(items.waiting)
        metrics.store_bytes.labels("item").set(state.item_bytes)
        metrics.store_charged_bytes.set(state.budget.charged)
        metrics.histories_users.set(len(histories))
        metrics.histories_bytes.set(histories.nbytes)
        tell(metrics.store_removed_total.labels("item", "expired"), items.expired)
        tell(metrics.store_removed_total.labels("item", "evicted"), items.evicted)
        for reason in REFUSALS:
            tell(metrics.store_refused_total.labels("item", reason), items.refused[reason])
        tell(metrics.store_early_rotations_total.labels("item"), items.rotations_early)
        tell(metrics.id_collisions_total.labels("item"), state.ids.collisions)
        tell(metrics.categories_beyond_total, state.learner.categories.others)
        for reason in LIMITS:
            tell(metrics.histories_limited_total.labels(reason), getattr(histories, reason))
