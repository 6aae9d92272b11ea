"""Every metric keeps the naming rules, and a scrape is read back as it was written."""

import mmap

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import (
    Metrics,
    Readings,
    ServingMetrics,
    Tally,
    TrainerMetrics,
    resident_bytes,
)

BOTH = pytest.mark.parametrize("kind", [TrainerMetrics, ServingMetrics])


@BOTH
def test_names_units_and_labels_keep_the_rules(kind: type[Metrics]) -> None:
    for family in kind().registry.collect():
        assert family.name.startswith("freshet_")
        assert family.documentation, f"{family.name} has no help"
        is_time = "seconds" in family.name
        assert not (is_time and family.type == "summary")
        assert not family.name.endswith(("_ms", "_milliseconds", "_mb", "_percent", "_total"))
        labels = {label for sample in family.samples for label in sample.labels}
        assert not labels & {"user", "item", "user_id", "item_id"}


@BOTH
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


def test_resident_memory_is_what_the_system_says() -> None:
    before = resident_bytes()
    with mmap.mmap(-1, 50_000_000) as pages:
        for first in range(0, len(pages), mmap.PAGESIZE):
            pages[first] = 1
        assert resident_bytes() - before > 0.9 * len(pages)
