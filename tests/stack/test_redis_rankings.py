"""Servers whose histories lie in Redis: what they rank by, and what they do without it."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.actions import Action, key_of
from service.metrics import TrainerMetrics
from service.redis.announcements import Announcer, Listener, channel
from service.redis.connection import RedisDenied, connect
from service.redis.settings import PASSWORD, RedisSettings
from service.versions.decisions import Erase
from tests.serving.conftest import ITEMS, Publisher, Site, running
from tests.stack.followed import START, Followed, random_actions, same, until
from tests.stack.redises import Authority, RedisServer

pytestmark = pytest.mark.stack

SETTINGS = {
    "histories": {"ttl_seconds": 3 * 86_400, "capacity": 64},
    "stream": {"partitions": 3},
}
WAIT_SECONDS = 0.05
SLACK_SECONDS = 0.25
"""What a ranking itself may take on a busy machine."""

Sited = Callable[..., Any]


@pytest.fixture
def sited(tmp_path: Path, redis_server: RedisServer) -> Iterator[Sited]:
    """A server on a Redis with version 1, and the stream it follows."""
    with ExitStack() as stack:

        def start(server: RedisServer = redis_server, **redis: Any) -> tuple[Site, Followed]:
            given = {"url": server.url, "wait_ms": 2000, "retry_seconds": 0.1}
            followed = Followed(tmp_path, server)
            stack.callback(followed.close)
            publish = Publisher(tmp_path)
            if not publish.directory.numbers():
                publish(1)
            site = stack.enter_context(running(tmp_path, **SETTINGS, redis={**given, **redis}))
            site.until_ready()
            return site, followed

        yield start


def scores(site: Site, user: str) -> dict[str, float]:
    answer = site.client.rank(user, ITEMS[:20], at=2_000_000_000.0)
    return {one["item"]: one["score"] for one in answer["items"]}


def reads(site: Site, outcome: str) -> float:
    value: float = site.server.metrics.history_reads_total.labels(outcome)._value.get()
    return value


def clicks(user: str, items: list[str]) -> list[dict[str, str]]:
    return [{"user": user, "item": item, "action": "click"} for item in items]


def test_an_action_changes_the_ranking_without_a_trainer(sited):
    site, followed = sited()
    with followed.running():
        before, others = scores(site, "u1"), scores(site, "u2")
        site.client.act(clicks("u1", ["i3"]))
        until(lambda: scores(site, "u1") != before)
        assert scores(site, "u2") == others
        assert reads(site, "hit") >= 1
        assert reads(site, "missing") >= 2


def test_rankings_are_those_of_a_server_that_keeps_its_own_histories(sited, tmp_path):
    site, followed = sited()
    followed.append(random_actions(0, 1500))
    followed.write()
    with running(tmp_path, **SETTINGS) as other:
        other.until_ready()
        read = other.server.metrics.history_records_total._value
        until(lambda: read.get() == 1500)
        site.until(lambda: site.core.histories._watermark_ms > 0)
        for user in [f"u{n}" for n in range(30)]:
            assert scores(site, user) == scores(other, user)
            both = [one.client.recommend(user, n=10)["items"] for one in (site, other)]
            assert both[0] == both[1]
    assert reads(site, "hit") > 20


def test_a_user_whose_time_is_over_has_no_history(sited):
    site, followed = sited()
    actions = random_actions(1, 20, users=1)
    followed.append(actions)
    followed.write()
    nobody = scores(site, "nobody")
    assert scores(site, "u0") != nobody
    # Four days later someone acts in every partition: the watermark is what the slowest reached.
    later = START + 4 * 86_400
    followed.append([Action(user=n, item=1, action="click", at=later) for n in range(12)])
    followed.write()
    site.until(lambda: scores(site, "u0") == nobody)
    assert followed.value("u0") is not None


def load(site: Site, stop: threading.Event, seconds: list[float], failed: list[Exception]) -> None:
    make = np.random.default_rng(threading.get_native_id())
    while not stop.is_set():
        began = time.perf_counter()
        try:
            scores(site, f"u{int(make.integers(30))}")
        except Exception as error:
            failed.append(error)
        seconds.append(time.perf_counter() - began)


@contextmanager
def loaded(site: Site, threads: int = 3) -> Iterator[list[float]]:
    """Rank without a pause inside; every ranking must be answered."""
    stop, seconds, failed = threading.Event(), [], []
    askers = [
        threading.Thread(target=load, args=(site, stop, seconds, failed)) for _ in range(threads)
    ]
    for asker in askers:
        asker.start()
    try:
        yield seconds
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    assert failed == []


def test_a_redis_that_stops_under_load_costs_no_answer_and_no_time(sited, own_redis, caplog):
    caplog.set_level(logging.INFO, "serving.breaker")
    server = own_redis()
    site, followed = sited(server, wait_ms=WAIT_SECONDS * 1000)
    followed.append(random_actions(2, 2000))
    followed.write()
    known = {user: scores(site, user) for user in ("u0", "u1", "u2")}
    with loaded(site) as seconds:
        until(lambda: len(seconds) > 50)
        quiet = max(seconds)
        with server.paused():
            time.sleep(1.0)
            during = len(seconds)
            assert {user: scores(site, user) for user in known} == known
        until(lambda: not site.core.histories._breaker.open)
        until(lambda: len(seconds) > during + 50)
        assert max(seconds) < max(quiet, SLACK_SECONDS) + WAIT_SECONDS
    assert reads(site, "stale") > 10
    levels = [r.levelname for r in caplog.records if r.name == "serving.breaker"]
    assert levels == ["ERROR", "INFO"]


def test_a_redis_that_is_killed_and_started_again_is_used_again(sited, own_redis):
    server = own_redis(persistent=True)
    site, followed = sited(server)
    with followed.running():
        site.client.act(clicks("u1", ["i3", "i4"]))
        before = scores(site, "nobody")
        until(lambda: scores(site, "u1") != before)
        known = scores(site, "u1")
        with loaded(site):
            server.kill()
            until(lambda: site.server.metrics.redis_up._value.get() == 0)
            assert scores(site, "u1") == known
            assert scores(site, "u7") == before
            assert reads(site, "stale") >= 1
            assert reads(site, "lost") >= 1
            assert site.client.ready()
            site.client.act(clicks("u1", ["i5"]))
            server.start()
            until(lambda: scores(site, "u1") != known)
    assert site.server.metrics.redis_up._value.get() == 1


def test_a_server_that_starts_while_redis_is_away_begins_to_use_it(sited, own_redis):
    server = own_redis(persistent=True)
    site, followed = sited(server)
    followed.append(random_actions(3, 300))
    followed.write()
    expected = scores(site, "u0")
    server.kill()
    other, _ = sited(server)
    assert scores(other, "u0") == scores(other, "nobody")
    server.start()
    until(lambda: scores(other, "u0") == expected)


def test_what_the_server_read_is_what_local_histories_hold(sited):
    site, followed = sited()
    followed.append(random_actions(5, 2500))
    followed.write()
    histories, watermark_ms = followed.local()
    source = site.core.histories
    site.until(lambda: source._watermark_ms == watermark_ms)
    for user in [f"u{n}" for n in range(31)]:
        expected = histories.read(np.array([key_of(user)]), 64, watermark_ms)
        (found,) = site.core.engine.do(lambda tables, user=user: tables.read([key_of(user)]))
        assert same(found, expected)
    assert site.core.engine.do(lambda tables: len(tables.histories)) == 0


def test_an_erased_user_is_not_ranked_by_what_was_erased(sited):
    site, followed = sited()
    followed.append(random_actions(6, 300, users=2))
    followed.write()
    nobody = scores(site, "nobody")
    assert scores(site, "u0") != nobody
    decision = Erase(user=key_of("u0"), before_ms=2**50, at=START)
    number = followed.directory.decide(decision)
    # The writer does not run: the value is still there, and the server does not use it.
    until(lambda: scores(site, "u0") == nobody)
    assert followed.value("u0") is not None
    assert site.client.versions()["generation"] < number
    with followed.running():
        until(lambda: site.client.versions()["generation"] == number)
        assert followed.value("u0") is None
        assert site.core.histories._seen.get(key_of("u0")) is None
    reading = site.core.readings.get(key_of("u0"))
    assert reading is None or not len(reading.kept.seen)
    assert scores(site, "u1") != nobody


# Announcements


def test_a_version_is_announced_to_every_listener(redis_server):
    settings, heard = RedisSettings(url=redis_server.url), [threading.Event() for _ in range(2)]
    listeners = [Listener(settings, event.set) for event in heard]
    for listener in listeners:
        listener.start()
    for event in heard:
        assert event.wait(10)  # who subscribes may have missed something
        event.clear()
    metrics = TrainerMetrics()
    announce = Announcer(settings, metrics.announcements_total)
    announce(42)
    assert all(event.wait(10) for event in heard)
    assert metrics.announcements_total.labels("sent")._value.get() == 1
    for listener in listeners:
        listener.close()


def test_a_listener_survives_its_redis_and_an_announcer_only_counts(own_redis, caplog):
    server, metrics, heard = own_redis(), TrainerMetrics(), threading.Event()
    settings = RedisSettings(url=server.url, retry_seconds=0.05)
    announce = Announcer(settings, metrics.announcements_total)
    listener = Listener(settings, heard.set)
    listener.start()
    assert heard.wait(10)
    server.kill()
    for number in range(3):
        announce(number)
    assert metrics.announcements_total.labels("failed")._value.get() == 3
    assert len([r for r in caplog.records if "not announced" in r.message]) == 1
    heard.clear()
    server.start()
    assert heard.wait(10)
    with server.client() as client:
        until(lambda: client.publish(channel(settings), "9") == 1)
    listener.close()


def test_a_server_that_would_look_rarely_serves_an_announced_version_at_once(
    tmp_path, redis_server
):
    publish = Publisher(tmp_path)
    publish(1)
    redis = {"url": redis_server.url}
    with running(tmp_path, **SETTINGS, serving={"poll_seconds": 30.0}, redis=redis) as site:
        site.until_ready()
        announce = Announcer(RedisSettings(**redis), TrainerMetrics().announcements_total)
        until(lambda: site.server.metrics.announcements_heard_total._value.get() == 1)
        time.sleep(0.2)  # what woke it up then is over
        manifest = publish(2)
        began = time.monotonic()
        announce(manifest.number)
        site.until_version(2)
        assert time.monotonic() - began < 10


# TLS and ACL

ACL = (
    "user default off",
    "user histories on >the-writers ~freshet:* resetchannels -@all +mget +eval +getrange +set +del "
    "+hgetall +hget +hset +multi +exec",
    "user servers on >the-servers ~freshet:* resetchannels &freshet:* -@all +mget +hgetall "
    "+subscribe +unsubscribe +ping",
    "user trainer on >the-trainers resetkeys resetchannels &freshet:* -@all +publish",
)


def settings_for(server: RedisServer, user: str) -> RedisSettings:
    assert server.tls is not None
    return RedisSettings(
        url=server.url, username=user, ca_file=server.tls.ca, cert_file=server.tls.cert("client"),
        key_file=server.tls.key("client"), retry_seconds=0.05,
    )  # fmt: skip


@pytest.fixture
def guarded(own_redis: Callable[..., RedisServer], tmp_path: Path) -> RedisServer:
    """A Redis that wants certificates of its clients, and lets each do what it needs."""
    return own_redis(tls=Authority(tmp_path / "tls"), acl=ACL)


def test_every_role_works_with_tls_and_the_least_rights(guarded, tmp_path, monkeypatch):
    monkeypatch.setenv(PASSWORD, "the-writers")
    followed = Followed(tmp_path, guarded)
    settings = settings_for(guarded, "histories")
    followed.client.close()
    followed.client = connect(settings)
    followed.store._client = followed.client
    followed.append(random_actions(7, 1000))
    followed.directory.decide(Erase(user=key_of("u3"), before_ms=2**50, at=START))
    followed.write()
    expected = followed.history("u0").item_T.tolist()
    assert len(expected) == 64

    Publisher(tmp_path)(1)
    monkeypatch.setenv(PASSWORD, "the-servers")
    section = settings_for(guarded, "servers").model_dump(exclude_defaults=True)
    with running(tmp_path, **SETTINGS, redis=section) as site:
        site.until_ready()
        assert scores(site, "u0") != scores(site, "nobody")
        assert reads(site, "hit") == 1
        heard = site.server.metrics.announcements_heard_total._value
        until(lambda: heard.get() == 1)
        monkeypatch.setenv(PASSWORD, "the-trainers")
        metrics = TrainerMetrics()
        Announcer(settings_for(guarded, "trainer"), metrics.announcements_total)(1)
        assert metrics.announcements_total.labels("sent")._value.get() == 1
        until(lambda: heard.get() == 2)
    followed.close()


def test_a_role_that_redis_refuses_ends_with_the_remedy(guarded, tmp_path, monkeypatch):
    monkeypatch.setenv(PASSWORD, "wrong")
    followed = Followed(tmp_path, guarded)
    for user in ("histories", "nobody"):
        followed.store._client = connect(settings_for(guarded, user))
        with pytest.raises(RedisDenied, match=PASSWORD):
            followed.writer().run(threading.Event())
    monkeypatch.setenv(PASSWORD, "the-servers")
    followed.store._client = connect(settings_for(guarded, "servers"))
    with pytest.raises(RedisDenied, match="ACL"):
        followed.writer().run(threading.Event())
    followed.close()


def test_a_server_of_another_authority_is_not_believed(guarded, tmp_path, monkeypatch):
    monkeypatch.setenv(PASSWORD, "the-servers")
    stranger = Authority(tmp_path / "stranger")
    settings = settings_for(guarded, "servers").model_copy(update={"ca_file": stranger.ca})
    followed = Followed(tmp_path, guarded)
    followed.store._client = connect(settings)
    with followed.running():
        until(lambda: followed.read("history_failures_total", what="redis"))
    followed.close()


# The process


def start_role(data: Path, url: str, prefix: str, *more: str) -> subprocess.Popen[bytes]:
    settings = data / f"{prefix}.toml"
    settings.write_text(
        f'[redis]\nurl = "{url}"\nprefix = "{prefix}:"\nwrite_records = 64\n'
        "[histories]\nttl_seconds = 259200\ncapacity = 64\n[stream]\npartitions = 3\n"
    )
    arguments = ["--data", str(data), "--settings", str(settings), *more]
    return subprocess.Popen(
        [sys.executable, "-m", "service.histories", *arguments], stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture
def role(redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Start `python -m service.histories`; it does not outlive the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(start_role(tmp_path, redis_server.url, "killed"))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_role_that_is_killed_again_and_again_ends_with_the_same_values(
    redis_server, tmp_path, role
):
    followed = Followed(tmp_path, redis_server, prefix="whole:", write_records=64)
    followed.append(random_actions(8, 20_000, users=300))
    followed.write()
    killed, make = Followed(tmp_path, redis_server, prefix="killed:"), np.random.default_rng(0)
    for _ in range(2):
        process = role()
        written = sum(killed.progress.offsets.values()) if killed.progress else 0
        goal = written + int(make.integers(500, 6000))
        until(lambda goal=goal: killed.progress and sum(killed.progress.offsets.values()) > goal)
        time.sleep(float(make.random()) * 0.02)
        process.kill()
        process.wait()
        assert sum(killed.progress.offsets.values()) < 20_000
    process = role()
    killed.until_written()
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 0, said
    assert list(killed.values().values()) == list(followed.values().values())
    for one in (followed, killed):
        one.close()
