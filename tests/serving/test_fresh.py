"""Histories follow the log without a trainer, and start where a version left them."""

import threading
import time
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest

from service.action_types import ActionTypes
from service.actions import Action, key_of
from service.histories.local import LocalHistories
from service.histories.settings import HistorySettings
from service.intake_settings import IntakeSettings
from service.metrics import Readings, ServingMetrics
from service.streams.local import LocalStream
from service.versions.decisions import Erase
from serving.engine import Engine, Tables
from serving.fresh import HistoryFollower
from serving.settings import ServingSettings

CANDIDATES = [f"i{number}" for number in range(20)]


def scores(site, user, **more):
    answer = site.client.rank(user, CANDIDATES, at=2_000_000_000.0, **more)
    return {scored["item"]: scored["score"] for scored in answer["items"]}


def encoded(user, at=None):
    """A click, by default of now, as it stands in the log."""
    at = time.time() if at is None else at
    return msgspec.json.encode(Action(user=user, item="i3", action="click", at=at))


class Following:
    """A history follower alone, on a real stream and a real version directory."""

    def __init__(self, directory, data, histories=None):
        self.directory, self.stream = directory, LocalStream(data / "stream")
        self.histories = LocalHistories(HistorySettings()) if histories is None else histories
        self.metrics = ServingMetrics()
        self.engine = Engine(Tables(self.histories), 8, 9.0)
        self.follower = HistoryFollower(
            directory, self.stream, self.engine, self.metrics, ActionTypes(), IntakeSettings(),
            ServingSettings(poll_seconds=0.01),
        )  # fmt: skip

    def until(self, holds):
        deadline = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def append(self, payloads):
        """Append to the log, and return when they were read."""
        read = self.metrics.history_records_total._value
        expected = read.get() + len(payloads)
        self.stream.append("actions", 0, payloads)
        self.follower.wake()
        self.until(lambda: read.get() == expected)

    def erase(self, user, before):
        """Decide, and return when the follower has obeyed."""
        decision = Erase(user=key_of(user), before_ms=round(before * 1000), at=before)
        number = self.directory.decide(decision)
        self.until(lambda: self.follower.obeyed >= number)

    def events(self, user):
        """Event times that are kept of a user, in seconds."""
        read = self.engine.do(lambda tables: tables.histories.read(np.array([key_of(user)]), 512))
        return (read.at_ms_T / 1000).tolist()


@contextmanager
def following(directory, data, histories=None):
    server = Following(directory, data, histories)
    server.engine.start()
    server.follower.start()
    yield server
    server.follower.close()
    server.engine.close()
    server.stream.close()


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
    (publish.data / "versions" / manifest.histories[0]).write_bytes(b"nothing")
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

    with following(publish.directory, tmp_path, Failing(HistorySettings())) as server:
        for number in range(2):
            server.append([encoded(number)])
        assert len(server.histories) == 1


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


def test_an_erased_user_is_forgotten_at_once_and_old_actions_stay_out(publish, tmp_path):
    now = float(int(time.time()))
    with following(publish.directory, tmp_path) as server:
        server.append([encoded(user, now - n) for n in range(3) for user in ("gone", "here")])
        server.erase("gone", before=now)
        assert server.events("gone") == []
        assert len(server.events("here")) == 3
        server.append([encoded("gone", now - 1), encoded("gone", now), encoded("gone", now + 2)])
        assert server.events("gone") == [now + 2]
        server.erase("here", before=now - 1)
        assert server.events("here") == [now]
        assert server.events("gone") == [now + 2]


def test_what_was_read_of_an_erased_user_is_forgotten_too(publish, run_site, clicks):
    publish(1)
    with run_site() as site:
        site.until_ready()
        site.client.act(clicks("u1", ["i1", "i2"]))

        def read() -> bool:
            site.client.rank("u1", ["i3"])
            return len(site.core.readings.get(key_of("u1")).kept.seen) == 2

        site.until(read)
        number = publish.directory.decide(Erase(user=key_of("u1"), before_ms=2**50, at=1.0))
        site.until(lambda: site.client.versions()["generation"] == number)
        assert site.core.readings.get(key_of("u1")) is None


def test_a_server_that_starts_erases_what_an_older_version_still_holds(publish, tmp_path, segment):
    publish(1, history=segment("gone", ["i1", "i2"]), offsets={"actions": {"0": 0}})
    now = time.time()
    for user in ("gone", "nobody"):
        publish.directory.decide(Erase(user=key_of(user), before_ms=round(now * 1000), at=now))
    with following(publish.directory, tmp_path) as server:
        server.append([encoded("gone", now - 5), encoded("here", now - 5)])
        server.until(server.follower.caught_up.is_set)
        assert server.follower.obeyed == 2
        assert server.events("gone") == []
        assert server.events("here") == [pytest.approx(now - 5, abs=1e-3)]


def damage_decision(data, number):
    path = data / "versions" / "decisions" / f"{number:08d}.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    return lambda: path.write_bytes(whole)


def test_no_ranking_from_restored_histories_before_the_decisions_can_be_read(
    publish, tmp_path, segment
):
    publish(1, history=segment("gone", ["i1", "i2"]))
    now = time.time()
    publish.directory.decide(Erase(user=key_of("gone"), before_ms=round(now * 1000), at=now))
    mend = damage_decision(publish.data, 1)
    with following(publish.directory, tmp_path) as server:
        assert not server.follower.caught_up.wait(0.3)
        assert server.follower.obeyed == 0
        mend()
        server.follower.wake()
        assert server.follower.caught_up.wait(20)
        assert server.events("gone") == []


def test_a_decision_that_cannot_be_read_stops_no_freshness(publish, tmp_path):
    now = float(int(time.time()))
    with following(publish.directory, tmp_path) as server:
        server.erase("gone", before=now)
        publish.directory.decide(Erase(user=key_of("here"), before_ms=round(now * 1000), at=now))
        mend = damage_decision(publish.data, 2)
        server.append([encoded("here", now), encoded("gone", now), encoded("third", now)])
        assert server.events("gone") == []
        assert server.events("third") == [now]
        mend()
        server.until(lambda: server.follower.obeyed == 2)
        assert server.events("here") == []
