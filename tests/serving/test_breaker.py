"""One line per outage, one per recovery, and no waiting in between."""

import logging

import pytest
from prometheus_client import Gauge

from serving.breaker import LATE_ANSWERS, Breaker


@pytest.fixture
def breaker() -> Breaker:
    return Breaker("Redis", Gauge("up", "test", registry=None))


def up(breaker: Breaker) -> float:
    return breaker._up._value.get()


def test_late_answers_open_it_only_in_a_row(breaker):
    for _ in range(5):
        for _ in range(LATE_ANSWERS - 1):
            breaker.late("late")
        breaker.answered()
    assert not breaker.open
    for _ in range(LATE_ANSWERS):
        assert not breaker.open
        breaker.late("late")
    assert breaker.open


def test_a_failure_opens_it_at_once_and_only_a_probe_closes_it(breaker):
    breaker.failed("refused")
    breaker.answered()
    assert breaker.open
    assert up(breaker) == 0
    breaker.probed()
    assert not breaker.open
    assert up(breaker) == 1
    breaker.late("late")
    assert not breaker.open


def test_an_outage_is_one_line_and_so_is_its_end(breaker, caplog):
    caplog.set_level(logging.INFO)
    for _ in range(10):
        breaker.failed("refused")
        breaker.late("late")
    for _ in range(3):
        breaker.probed()
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert "refused" in caplog.records[0].message
