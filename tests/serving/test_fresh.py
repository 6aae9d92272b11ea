"""Histories follow the log without a trainer, and start where a version left them."""

import threading
import time

import msgspec
import pytest

from service.action_types import ActionTypes
from service.actions import Action
from service.histories.local import LocalHistories
from service.histories.settings import HistorySettings
from service.intake import IntakeSettings
from service.metrics import Readings, ServingMetrics
from service.streams.local import LocalStream
from serving.engine import Engine, Tables
from serving.fresh import HistoryFollower
from serving.settings import ServingSettings

CANDIDATES = [f"i{number}" for number in range(20)]


def scores(site, user, **more):
    answer = site.client.rank(user, CANDIDATES, at=2_000_000_000.0, **more)
    return {scored["item"]: scored["score"] for scored in answer["items"]}


def encoded(user):
    """A click of now, as it stands in the log."""
    return msgspec.json.encode(Action(user=user, item="i3", action="click", at=time.time()))


def applied(site):
    return Readings(site.http.get("/metrics").text).get("history_records_total")


def test_an_action_changes_the_ranking_without_a_trainer(site, clicks):
    before, others = scores(site, "u1"), scores(site, "u2")
    site.client.act(clicks("u1", ["i3"]))
    site.until(lambda: scores(site, "u1") != before)
    assert scores(site, "u2") == others


def test_an_action_that_another_process_appended_changes_the_ranking(site, tmp_path):
    before = scores(site, "u1")
    other = LocalStream(tmp_path / "stream")
    other.append("actions", 0, [encoded("u1")])
    site.until(lambda: scores(site, "u1") != before)
    other.close()


def test_a_repeated_action_id_counts_once(site, clicks):
    site.client.act(clicks("u1", ["i3"], id="a1"))
    site.until(lambda: applied(site) == 1)
    once = scores(site, "u1")
    site.client.act(clicks("u1", ["i3"], id="a1"))
    site.until(lambda: applied(site) == 2)
    assert scores(site, "u1") == once


def test_seen_items_are_left_out_of_recommendations(site, clicks):
    site.client.act(clicks("u1", ["i3", "i4"]))
    site.until(lambda: applied(site) == 2)
    unseen = [s["item"] for s in site.client.recommend("u1", n=40)["items"]]
    every = [s["item"] for s in site.client.recommend("u1", n=40, exclude_seen=False)["items"]]
    assert set(every) - set(unseen) == {"i3", "i4"}


def test_histories_are_restored_from_the_version_and_the_log_after_it(
    publish, run_site, clicks, segment
):
    publish(1)
    with run_site() as site:
        site.until_ready()
        site.client.act(clicks("u1", ["i1", "i2", "i3"]))
        site.until(lambda: applied(site) == 3)
        whole = scores(site, "u1")
    # A version that learned the first two: a new server reads the third from the log.
    publish(2, history=segment("u2", ["i5"]), offsets={"actions": {"0": 2}})
    with run_site() as site:
        site.until_ready()
        assert applied(site) == 1
        assert scores(site, "u2") != scores(site, "nobody")
        assert scores(site, "u1") not in (whole, scores(site, "nobody"))


def test_a_version_with_damaged_histories_lends_an_older_ones(publish, run_site, segment):
    publish(1, history=segment("u2", ["i5"]))
    manifest = publish(2, history=segment("u2", ["i6"]))
    (publish.data / "versions" / manifest.only("histories")).write_bytes(b"nothing")
    with run_site() as site:
        site.until_ready()
        assert scores(site, "u2") != scores(site, "nobody")


@pytest.mark.parametrize(
    "version",
    [
        {"offsets": {"actions": {"0": 1000}}},
        {"offsets": {"actions": {"0": 0}}, "topic_ids": {"actions": "another"}},
    ],
)
def test_another_log_than_the_versions_is_read_from_its_start(publish, run_site, clicks, version):
    publish(1, **version)
    with run_site() as site:
        site.until_ready()
        before = scores(site, "u1")
        site.client.act(clicks("u1", ["i3"]))
        site.until(lambda: scores(site, "u1") != before)


def test_a_log_that_goes_away_stops_actions_and_no_ranking(site, clicks):
    site.client.act(clicks("u1", ["i3"]))
    site.until(lambda: applied(site) == 1)
    before = scores(site, "u1")
    site.server.stream.close()
    assert site.http.post("/v1/actions", json={"actions": clicks("u1", ["i4"])}).status_code == 503
    assert scores(site, "u1") == before
    assert site.client.ready()


def test_a_block_that_cannot_be_applied_does_not_end_all_freshness(publish, tmp_path):
    class Failing(LocalHistories):
        failed = False

        def append(self, *arguments):
            if not self.failed:
                self.failed = True
                raise ValueError("broken")
            return super().append(*arguments)

    tables, metrics = Tables(Failing(HistorySettings())), ServingMetrics()
    engine, stream = Engine(tables, 8), LocalStream(tmp_path / "stream")
    follower = HistoryFollower(
        publish.directory, stream, engine, metrics, ActionTypes(), IntakeSettings(),
        ServingSettings(),
    )  # fmt: skip
    engine.start()
    follower.start()
    for number in range(2):
        stream.append("actions", 0, [encoded(number)])
        follower.wake()
        while metrics.history_records_total._value.get() <= number:
            time.sleep(0.01)
    follower.close()
    engine.close()
    stream.close()
    assert len(tables.histories) == 1


def test_actions_and_rankings_at_once_lose_nothing(site, clicks):
    def act(number: int) -> None:
        for _ in range(10):
            site.client.act(clicks(f"u{number}", ["i1", "i2"]))
            site.client.rank(f"u{number}", CANDIDATES)

    threads = [threading.Thread(target=act, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    site.until(lambda: applied(site) == 80)
