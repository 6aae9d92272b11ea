"""Every metric name of Freshet, in one place.

All names start with `freshet_` and use base units; `_total` is for counters only; durations that
vary are histograms; no label ever carries a user or an item. Each process owns one of the three
classes below, with a registry of its own: nothing is global, so tests build as many as they like.
"""

import resource
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.parser import text_string_to_metric_families

STEP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
REQUEST_BUCKETS = (0.001, 0.002, 0.004, 0.006, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0, 5.0)
APPLY_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.1, 0.5)


def resident_bytes() -> int:
    """Memory that this process holds; its peak where the system does not say (no /proc)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * resource.getpagesize()


class Metrics:
    """A registry, this process's memory and CPU time, and short ways to make the three kinds."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(namespace="freshet", registry=self.registry)

    def text(self) -> bytes:
        """The exposition that Prometheus scrapes, in format 0.0.4."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"freshet_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"freshet_{name}", help_text, labels, registry=self.registry)

    def _histogram(
        self, name: str, help_text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"freshet_{name}", help_text, labels, buckets=buckets, registry=self.registry
        )


class Tally:
    """Carries totals that are kept elsewhere into counters, which only know how to grow."""

    def __init__(self) -> None:
        self._told: dict[Counter, float] = {}

    def tell(self, counter: Counter, total: float) -> None:
        """Raise the counter by what the total has grown. The first total is the counter's own: a
        total that was restored begins at zero here, as counters of a new process do."""
        counter.inc(total - self._told.get(counter, total))
        self._told[counter] = total


class TrainerMetrics(Metrics):
    """What the trainer counts; served by `python -m trainer --metrics-port P`."""

    def __init__(self) -> None:
        super().__init__()
        self.actions_total = self._counter(
            "actions_total",
            "Actions read, by outcome: trained, skipped, unlearned or capped",
            "outcome",
        )
        self.duplicates_total = self._counter(
            "duplicates_total", "Actions dropped because their user already sent that id"
        )
        self.rejected_total = self._counter(
            "rejected_total", "Records sent to the rejected topic, by reason", "reason"
        )
        self.batches_skipped_total = self._counter(
            "batches_skipped_total", "Batches not trained: their loss or gradient was not finite"
        )
        self.impressions_total = self._counter(
            "impressions_total", "Impressions read, by outcome of the join", "outcome"
        )
        self.stream_lag_records = self._gauge(
            "stream_lag_records", "Records in the stream that the trainer has not learned yet"
        )
        self.stream_retention_margin_ratio = self._gauge(
            "stream_retention_margin_ratio",
            "Share of what a topic holds that the trainer has behind it, in the partition where it "
            "is smallest: near 0 the records deleted next are those it needs next",
            "topic",
        )
        self.watermark_seconds = self._gauge(
            "watermark_seconds", "Event time up to which the stream is believed complete"
        )
        self.block = self._gauge("block", "Number of the last block trained")
        self._learning()
        self._publishing()
        self._judging()
        self._keeping()

    def _learning(self) -> None:
        self.loss = self._gauge("loss", "Training loss of the last block, nats per event")
        self.hit_rate = self._gauge(
            "hit_rate",
            "Share of the last 2,000 scored events whose item stood in the top 10 before it was "
            "learned, by model: online or popularity",
            "model",
        )
        self.step_seconds = self._histogram(
            "step_seconds", "Time of one training step", STEP_BUCKETS
        )

    def _publishing(self) -> None:
        self.version = self._gauge("version", "Number of the last version published")
        self.publish_seconds = self._histogram(
            "publish_seconds", "Time from the cut of a version to its commit", STEP_BUCKETS
        )
        self.publish_failures_total = self._counter(
            "publish_failures_total", "Versions that could not be written, and were tried again"
        )
        self.publish_stall_seconds = self._histogram(
            "publish_stall_seconds", "Time that training stood still for a version", STEP_BUCKETS
        )

    def _judging(self) -> None:
        self.versions_held_total = self._counter(
            "versions_held_total",
            "Versions kept from the servers, by reason: broken, quantization, surprise, taste, "
            "crowd, action or recovering",
            "reason",
        )
        self.gate = self._gauge(
            "gate", "What the gate measured of the last version, by measure", "measure"
        )
        self.gate_seconds = self._histogram(
            "gate_seconds", "Time to judge one version", STEP_BUCKETS
        )
        self.loss_alarm = self._gauge(
            "loss_alarm", "1 while new events are not as usual to the model"
        )

    def _keeping(self) -> None:
        self.store_rows = self._gauge("store_rows", "Ids with a row of their own", "slot")
        self.store_bytes = self._gauge(
            "store_bytes", "Memory of vectors, index and counters", "slot"
        )
        self.store_charged_bytes = self._gauge(
            "store_charged_bytes", "Memory of tables and histories as held against store.max_bytes"
        )
        self.store_waiting = self._gauge(
            "store_waiting", "Ids that have not earned a row yet", "slot"
        )
        self.store_removed_total = self._counter(
            "store_removed_total", "Rows freed, by reason: expired or evicted", "slot", "reason"
        )
        self.store_refused_total = self._counter(
            "store_refused_total",
            "Occurrences that earned a row and got none, by reason: full or spared",
            "slot",
            "reason",
        )
        self.store_early_rotations_total = self._counter(
            "store_early_rotations_total",
            "Times that counters of waiting ids were dropped early because there were too many",
            "slot",
        )
        self.id_collisions_total = self._counter(
            "id_collisions_total", "Occurrences of ids whose key another id owns", "slot"
        )
        self.histories_users = self._gauge("histories_users", "Users with a history")
        self.histories_bytes = self._gauge("histories_bytes", "Memory of all histories")
        self.histories_limited_total = self._counter(
            "histories_limited_total",
            "What store.max_bytes cost: users evicted, events refused, rings shortened",
            "reason",
        )


class ServingMetrics(Metrics):
    """What a server counts; served at `/metrics`."""

    def __init__(self) -> None:
        super().__init__()
        self.requests_total = self._counter(
            "requests_total", "Requests answered, by route and status code", "route", "status"
        )
        self.request_seconds = self._histogram(
            "request_seconds", "Time to answer a request", REQUEST_BUCKETS, "route"
        )
        self.version = self._gauge("version", "Number of the version that answers")
        self.version_age_seconds = self._gauge(
            "version_age_seconds", "Time since the version that answers was created"
        )
        self.versions_refused_total = self._counter(
            "versions_refused_total", "Versions that could not be loaded, by reason", "reason"
        )
        self.impressions_dropped_total = self._counter(
            "impressions_dropped_total", "Impressions not logged because the queue was full"
        )
        self.actions_appended_total = self._counter(
            "actions_appended_total", "Actions accepted over HTTP and durable in the stream"
        )
        self.history_records_total = self._counter(
            "history_records_total", "Stream records applied to the histories"
        )
        self.histories_users = self._gauge("histories_users", "Users with a history")
        self._guarding()
        self.version_applied_total = self._counter(
            "version_applied_total",
            "Versions reached, by how: delta (what changed) or base (loaded whole)",
            "how",
        )
        self.version_apply_seconds = self._histogram(
            "version_apply_seconds", "Time that ranking stood still for a version", APPLY_BUCKETS
        )
        self.version_pinned = self._gauge(
            "version_pinned", "1 while servers are told to keep to one version"
        )
        self.version_generation = self._gauge(
            "version_generation", "Number of the newest decision that this server obeys"
        )

    def _guarding(self) -> None:
        self.keys = self._gauge("keys", "API keys that this server knows")
        self.key_reloads_total = self._counter(
            "key_reloads_total",
            "Times the key file had changed, by outcome: loaded, or failed (the old keys stay)",
            "outcome",
        )
        self.requests_denied_total = self._counter(
            "requests_denied_total",
            "Requests without leave, by reason: missing, unknown, expired, scope or origin",
            "reason",
        )
        self.connections_refused_total = self._counter(
            "connections_refused_total",
            "Connections closed, by reason: crowded, slow or large heads, malformed, stalled",
            "reason",
        )
        self.rate_limited_total = self._counter(
            "rate_limited_total",
            "What was over a rate: requests of a key (rankings, records), single user_actions",
            "what",
        )


class HistoryMetrics(Metrics):
    """What the writer of the histories in Redis counts; served by `python -m service.histories`."""

    def __init__(self) -> None:
        super().__init__()
        self.history_records_total = self._counter(
            "history_records_total", "Stream records applied to the histories"
        )
        self.history_events_total = self._counter(
            "history_events_total",
            "Actions read for the histories, by outcome: kept, duplicate, known (contained "
            "already) or erased",
            "outcome",
        )
        self.history_write_seconds = self._histogram(
            "history_write_seconds", "Time to put one block of records into Redis", STEP_BUCKETS
        )
        self.history_lag_records = self._gauge(
            "history_lag_records", "Records in the stream that the histories do not contain yet"
        )
        self.history_conflicts_total = self._counter(
            "history_conflicts_total",
            "Values that another writer changed first, and were read again",
        )
        self.history_damaged_total = self._counter(
            "history_damaged_total", "Values in Redis that could not be read, and began anew"
        )
        self.history_seeded_total = self._counter(
            "history_seeded_total",
            "Users whose history was taken from a version into an empty Redis",
        )
        self.history_failures_total = self._counter(
            "history_failures_total",
            "Times that the histories could not go on, by what failed: redis, contents, stream or "
            "versions",
            "what",
        )
        self.watermark_seconds = self._gauge(
            "watermark_seconds", "Event time up to which the stream is believed complete"
        )
        self.redis_up = self._gauge("redis_up", "1 while Redis answers this process")


class Readings:
    """What one scrape said: values by sample name and labels."""

    def __init__(self, text: str) -> None:
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def get(self, name: str, default: float = 0.0, **labels: str) -> float:
        """The sample `freshet_NAME` with exactly these labels; `default` when it is absent."""
        return self._values.get((f"freshet_{name}", frozenset(labels.items())), default)

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """All samples of `freshet_NAME`, by the value of one label."""
        return {
            dict(labels)[label]: value
            for (sample, labels), value in self._values.items()
            if sample == f"freshet_{name}" and label in dict(labels)
        }
