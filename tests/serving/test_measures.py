"""What a server says of itself while it works: readiness, queues, freshness."""

import threading
import time

from service.metrics import Readings
from service.versions.manifest import FIRST_APPEND


def readings(site):
    return Readings(site.http.get("/metrics").text)


def test_readiness_is_a_metric_too(site):
    assert readings(site).get("ready") == 1.0
    site.server.drain()
    assert readings(site).get("ready") == 0.0


def test_requests_under_way_and_jobs_that_wait_are_counted(site):
    assert readings(site).get("requests_in_flight") == 0.0
    gate = threading.Event()
    blocked = threading.Thread(target=lambda: site.core.engine.do(lambda _: gate.wait(20)))
    asking = threading.Thread(target=lambda: site.client.rank("u1", ["i1"]))
    blocked.start()
    asking.start()
    site.until(lambda: readings(site).get("engine_waiting") >= 1.0)
    assert readings(site).get("requests_in_flight") == 1.0
    gate.set()
    blocked.join()
    asking.join()
    site.until(lambda: readings(site).get("requests_in_flight") == 0.0)


def test_the_way_of_an_action_into_the_histories_is_timed(site, clicks):
    assert readings(site).get("action_to_history_seconds_count") == 0.0
    site.client.act(clicks("u1", ["i3"]))
    site.until(lambda: readings(site).get("action_to_history_seconds_count") == 1.0)
    assert 0.0 <= readings(site).get("action_to_history_seconds_sum") < 5.0


def test_the_way_of_an_action_into_the_version_that_answers_is_timed(site, publish):
    publish(2, metrics={FIRST_APPEND: time.time() - 40.0})
    site.until_version(2)
    now = readings(site)
    assert now.get("action_to_version_seconds_count") == 1.0  # not of the one it began with
    assert 40.0 <= now.get("action_to_version_seconds_sum") < 60.0
    site.client.activate(1)
    site.until_version(1)
    site.client.unpin()
    site.until_version(2)
    assert readings(site).get("action_to_version_seconds_count") == 1.0


def test_a_version_that_does_not_say_when_is_not_timed(site, publish):
    publish(2)
    site.until_version(2)
    assert readings(site).get("action_to_version_seconds_count") == 0.0
