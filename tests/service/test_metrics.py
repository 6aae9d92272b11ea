"""Every metric keeps the naming rules, and a scrape is read back as it was written."""

import mmap

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.commands.processes import free_port, read_metrics
from service.errors import InputError
from service.metrics import (
    HistoryMetrics,
    LagClock,
    Metrics,
    Readings,
    ServingMetrics,
    Tally,
    TrainerMetrics,
    resident_bytes,
)

EACH = pytest.mark.parametrize("kind", [TrainerMetrics, ServingMetrics, HistoryMetrics])


@EACH
def test_names_units_and_labels_keep_the_rules(kind: type[Metrics]) -> None:
    for family in kind().registry.collect():
        assert family.name.startswith("freshet_")
        assert family.documentation, f"{family.name} has no help"
        is_time = "seconds" in family.name
        assert not (is_time and family.type == "summary")
        assert not family.name.endswith(("_ms", "_milliseconds", "_mb", "_percent", "_total"))
        labels = {label for sample in family.samples for label in sample.labels}
        assert not labels & {"user", "item", "user_id", "item_id"}


@EACH
def test_only_counters_end_in_total(kind: type[Metrics]) -> None:
    for family in text_string_to_metric_families(kind().text().decode()):
        for sample in family.samples:
            assert not sample.name.endswith("_total") or family.type == "counter"


def test_two_of_a_kind_do_not_share_anything() -> None:
    first, second = TrainerMetrics(), TrainerMetrics()
    first.block.set(3)
    assert Readings(second.text().decode()).get("block") == 0


def test_a_scrape_is_read_back() -> None:
    metrics = TrainerMetrics()
    metrics.actions_total.labels("trained").inc(5)
    metrics.hit_rate.labels("online").set(0.5)
    metrics.hit_rate.labels("popularity").set(0.25)
    metrics.step_seconds.observe(0.02)
    readings = Readings(metrics.text().decode())
    assert readings.get("actions_total", outcome="trained") == 5
    assert readings.get("actions_total", outcome="skipped") == 0
    assert readings.get("nothing", default=2.0) == 2.0
    assert readings.by_label("hit_rate", "model") == {"online": 0.5, "popularity": 0.25}
    assert readings.get("step_seconds_count") == 1
    assert readings.get("process_resident_memory_bytes") > 1e6


def test_a_tally_carries_growth_and_not_what_was_there_before() -> None:
    metrics, tally = TrainerMetrics(), Tally()
    counter = metrics.store_removed_total.labels("item", "evicted")
    for total in (7, 7, 9, 12):
        tally.tell(counter, total)
    assert b'freshet_store_removed_total{reason="evicted",slot="item"} 5.0' in metrics.text()


@EACH
def test_a_process_says_what_runs(kind: type[Metrics]) -> None:
    assert Readings(kind().text().decode()).by_label("build_info", "release") == {"0.1.0": 1.0}


def test_faults_are_there_at_zero_before_they_happen() -> None:
    refused = Readings(ServingMetrics().text().decode()).by_label(
        "versions_refused_total", "reason"
    )
    assert refused["altered"] == 0.0
    held = Readings(TrainerMetrics().text().decode()).by_label("versions_held_total", "reason")
    assert held["taste"] == 0.0


def test_metrics_are_served_where_they_are_asked_for() -> None:
    metrics, port = TrainerMetrics(), free_port()
    metrics.serve("127.0.0.1", port)
    found = read_metrics(port)
    assert found is not None
    assert found.get("block", -1.0) == 0.0
    with pytest.raises(InputError, match=f"127.0.0.1:{port}.*another --metrics-port"):
        metrics.serve("127.0.0.1", port)


def test_the_lag_is_what_the_oldest_record_may_have_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = LagClock()
    monkeypatch.setattr("service.metrics.time.time", lambda: 100.0)
    assert clock.seconds(7, 0) == 0.0  # nothing is known yet
    assert clock.seconds(7, 40_000) == 60.0
    assert clock.seconds(0, 90_000) == 0.0
    monkeypatch.setattr("service.metrics.time.time", lambda: 130.0)
    assert clock.seconds(1, 90_000) == 30.0  # at 100 all was learned: it came after that
    assert clock.seconds(1, 129_000) == 1.0


def test_resident_memory_is_what_the_system_says() -> None:
    before = resident_bytes()
    with mmap.mmap(-1, 50_000_000) as pages:
        for first in range(0, len(pages), mmap.PAGESIZE):
            pages[first] = 1
        assert resident_bytes() - before > 0.9 * len(pages)
