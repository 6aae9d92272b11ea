"""Every metric name of Freshet, in one place.

All names start with `freshet_` and use base units; `_total` is for counters only; durations that
vary are histograms; no label ever carries a user or an item. Each process owns one of the three
classes below, with a registry of its own: nothing is global, so tests build as many as they like.
"""

import platform
import resource
import time
from importlib import metadata
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    start_http_server,
)
from prometheus_client.parser import text_string_to_metric_families

from service.errors import InputError

STEP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
REQUEST_BUCKETS = (0.001, 0.002, 0.004, 0.006, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0, 5.0)
FRESH_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
FROM_APPEND_TO_HISTORY = (
    "From the append of the oldest action of a block to when rankings see it in the histories"
)
READ_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.5)
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
        build = self._gauge("build_info", "1, and what runs", "release", "python")
        build.labels(metadata.version("freshet"), platform.python_version()).set(1)

    def serve(self, host: str, port: int) -> None:
        """Serve the exposition at every path of a port, in a thread of its own. Raises InputError
        for an address that cannot be used."""
        try:
            start_http_server(port, host, self.registry)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"metrics cannot be served on {host}:{port}: {error}; choose another "
                "--metrics-port or --metrics-host"
            ) from None

    def text(self) -> bytes:
        """The exposition that Prometheus scrapes, in format 0.0.4."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"freshet_{name}", help_text, labels, registry=self.registry)

    def _counter_of(self, name: str, help_text: str, label: str, *values: str) -> Counter:
        """A counter with one label whose known values are there from the start, at 0: the first
        fault of a kind is then a rise, and not a line that nobody was looking at."""
        counter = self._counter(name, help_text, label)
        for value in values:
            counter.labels(value)
        return counter

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


class LagClock:
    """Tells a lag in seconds: for how long the oldest record that was not learned may wait."""

    def __init__(self) -> None:
        self._level_ms = 0.0
        """What was appended up to then is learned."""

    def seconds(self, records: int, learned_ms: float) -> float:
        """The lag, by how many records are not learned and the append time of the last one that
        is. An upper bound; 0 while nothing is known yet."""
        now_ms = time.time() * 1000
        self._level_ms = max(self._level_ms, learned_ms) if records else now_ms
        return max(0.0, now_ms - self._level_ms) / 1000 if self._level_ms else 0.0


class TrainerMetrics(Metrics):
    """What the trainer counts; served by `python -m trainer --metrics-port P`."""

    def __init__(self) -> None:
        super().__init__()
        self.actions_total = self._counter_of(
            "actions_total",
            "Actions read, by outcome: trained, skipped, unlearned or capped",
            "outcome", "trained", "skipped", "unlearned", "capped",
        )  # fmt: skip
        self.duplicates_total = self._counter(
            "duplicates_total", "Actions dropped because their user already sent that id"
        )
        self.rejected_total = self._counter_of(
            "rejected_total", "Records sent to the rejected topic, by reason", "reason",
            "bad_json", "bad_field", "bad_id", "bad_time", "bad_list", "unknown_action",
            "too_early", "too_late",
        )  # fmt: skip
        self.batches_skipped_total = self._counter(
            "batches_skipped_total", "Batches not trained: their loss or gradient was not finite"
        )
        self.impressions_total = self._counter_of(
            "impressions_total", "Impressions read, by outcome of the join", "outcome",
            "joined", "unusable", "replaced", "repeated", "late",
        )  # fmt: skip
        self.joined_actions_total = self._counter_of(
            "joined_actions_total", "Actions on impressions, by outcome of the join", "outcome",
            "joined", "corrected", "again", "duplicate", "too_late", "orphan",
        )  # fmt: skip
        self.impressions_waiting = self._gauge(
            "impressions_waiting", "Impressions that are open, or learned and correctable", "stage"
        )
        self.join_spilled_bytes = self._gauge(
            "join_spilled_bytes", "Disk used by open impressions beyond trainer.join_memory_bytes"
        )
        self.stream_lag_records = self._gauge(
            "stream_lag_records", "Records in the stream that the trainer has not learned yet"
        )
        self.stream_lag_seconds = self._gauge(
            "stream_lag_seconds", "Longest time that a record may have waited to be learned by now"
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
        self.calibration_error = self._gauge(
            "calibration_error",
            "Expected calibration error of an action's chance before it was learned, lately: raw, "
            "as its head has it, or served, after calibration",
            "action",
            "chance",
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
        self.announcements_total = self._counter_of(
            "announcements_total", "Versions announced to servers over Redis, by outcome",
            "outcome", "sent", "failed",
        )  # fmt: skip
        self.publish_stall_seconds = self._histogram(
            "publish_stall_seconds", "Time that training stood still for a version", STEP_BUCKETS
        )

    def _judging(self) -> None:
        self.versions_held_total = self._counter_of(
            "versions_held_total", "Versions kept from the servers, by reason", "reason",
            "broken", "quantization", "surprise", "taste", "crowd", "action", "recovering",
        )  # fmt: skip
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
        self.categories_beyond_total = self._counter(
            "categories_beyond_total",
            "Categories of items that share a vector because model.categories was reached",
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
        self.versions_refused_total = self._counter_of(
            "versions_refused_total", "Versions that could not be loaded, by reason", "reason",
            "missing", "truncated", "altered", "format", "damaged", "model", "gap", "duplicate",
            "order", "signature",
        )  # fmt: skip
        self.ready = self._gauge("ready", "1 while balancers should send requests here")
        self.requests_in_flight = self._gauge(
            "requests_in_flight", "Requests that came and are not answered yet"
        )
        self.workers = self._gauge(
            "workers", "HTTP workers that run; 0 where one process does everything"
        )
        self.worker_restarts_total = self._counter(
            "worker_restarts_total", "HTTP workers that ended and were started again"
        )
        self.engine_waiting = self._gauge(
            "engine_waiting", "Rankings and changes that wait for the engine's thread"
        )
        self.readings_total = self._counter_of(
            "readings_total",
            "Histories that a request needed: kept as read, extended by new events, read anew",
            "outcome", "hit", "extended", "read",
        )  # fmt: skip
        self.readings_bytes = self._gauge(
            "readings_bytes", "Memory of the histories that are kept as the model read them"
        )
        self.impressions_queued = self._gauge(
            "impressions_queued", "Impressions that wait to be logged"
        )
        self.action_to_history_seconds = self._histogram(
            "action_to_history_seconds", FROM_APPEND_TO_HISTORY, FRESH_BUCKETS
        )
        self.action_to_version_seconds = self._histogram(
            "action_to_version_seconds",
            "From the append of the oldest action that a version adds to when it answers here",
            FRESH_BUCKETS,
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
        self.items_total = self._counter_of(
            "items_total",
            "Records of the topic items, by outcome",
            "outcome", "described", "deleted", "rejected",
        )  # fmt: skip
        self.catalogue_items = self._gauge(
            "catalogue_items", "Items that a server knows something of from the topic items"
        )
        self.catalogue_unseen_items = self._gauge(
            "catalogue_unseen_items", "Of these, items that the served version has no row for"
        )
        self.history_reads_total = self._counter_of(
            "history_reads_total",
            "Histories read from Redis, by outcome: hit, missing (Redis has none), stale (Redis is "
            "away: as seen last), lost (away, and not seen lately) or damaged",
            "outcome", "hit", "missing", "stale", "lost", "damaged",
        )  # fmt: skip
        self.history_read_seconds = self._histogram(
            "history_read_seconds", "Time of a ranking until it had its history", READ_BUCKETS
        )
        self.history_cache_bytes = self._gauge(
            "history_cache_bytes", "Memory of the histories that were seen last"
        )
        self.redis_up = self._gauge(
            "redis_up", "1 while Redis answers this process, and where it is not used"
        )
        self.redis_up.set(1)
        self.announcements_heard_total = self._counter(
            "announcements_heard_total",
            "Times that an announcement, or a new connection to Redis, "
            "made this server look for versions",
        )
        self.version_applied_total = self._counter_of(
            "version_applied_total",
            "Versions reached, by how: delta (what changed) or base (loaded whole)",
            "how", "delta", "base",
        )  # fmt: skip
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
        self.key_reloads_total = self._counter_of(
            "key_reloads_total",
            "Times the key file had changed, by outcome: loaded, or failed (the old keys stay)",
            "outcome", "loaded", "failed",
        )  # fmt: skip
        self.requests_denied_total = self._counter_of(
            "requests_denied_total", "Requests without leave, by reason", "reason",
            "missing", "unknown", "expired", "scope", "origin",
        )  # fmt: skip
        self.connections_refused_total = self._counter_of(
            "connections_refused_total",
            "Connections closed, by reason: crowded, slow or large heads, malformed, stalled",
            "reason", "crowded", "slow", "large", "malformed", "stalled",
        )  # fmt: skip
        self.rate_limited_total = self._counter_of(
            "rate_limited_total",
            "What was over a rate: requests of a key (rankings, records), single user_actions",
            "what", "rankings", "records", "user_actions",
        )  # fmt: skip


class HistoryMetrics(Metrics):
    """What the writer of the histories in Redis counts; served by `python -m service.histories`."""

    def __init__(self) -> None:
        super().__init__()
        self.history_records_total = self._counter(
            "history_records_total", "Stream records applied to the histories"
        )
        self.action_to_history_seconds = self._histogram(
            "action_to_history_seconds", FROM_APPEND_TO_HISTORY, FRESH_BUCKETS
        )
        self.history_events_total = self._counter_of(
            "history_events_total",
            "Actions read for the histories, by outcome: kept, duplicate, known (contained "
            "already) or erased",
            "outcome", "kept", "duplicate", "known", "erased",
        )  # fmt: skip
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
        self.history_failures_total = self._counter_of(
            "history_failures_total", "Times that the histories could not go on, by what failed",
            "what", "redis", "contents", "stream", "versions",
        )  # fmt: skip
        self.watermark_seconds = self._gauge(
            "watermark_seconds", "Event time up to which the stream is believed complete"
        )
        self.redis_up = self._gauge("redis_up", "1 while Redis answers this process")
        self.redis_up.set(1)


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
