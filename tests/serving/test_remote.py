"""With histories in Redis and no Redis: every ranking is answered, in time."""

import logging
import socket
import time

import pytest


@pytest.fixture
def nowhere() -> str:
    """An address at which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


@pytest.fixture
def silent():
    """An address that takes connections and never says anything."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


def reads(site, outcome):
    return site.server.metrics.history_reads_total.labels(outcome)._value.get()


def rank(site, user="u1"):
    began = time.perf_counter()
    answer = site.client.rank(user, ["i1", "i2"], at=2_000_000_000.0)
    return answer, time.perf_counter() - began


def lines(caplog):
    return [r for r in caplog.records if r.name == "serving.breaker"]


def test_a_server_without_its_redis_is_ready_and_ranks_with_empty_histories(
    publish, run_site, nowhere, caplog
):
    publish(1)
    with run_site(redis={"url": nowhere}) as site:
        site.until_ready()
        for _ in range(20):
            rank(site)
        assert reads(site, "lost") == 20
        assert site.server.metrics.redis_up._value.get() == 0
    assert [record.levelname for record in lines(caplog)] == ["ERROR"]


def test_a_redis_that_never_answers_costs_no_ranking_its_wait(publish, run_site, silent, caplog):
    caplog.set_level(logging.INFO)
    publish(1)
    redis = {"url": silent, "wait_ms": 5000, "retry_seconds": 0.2, "connect_seconds": 0.2}
    with run_site(redis=redis) as site:
        site.until_ready()
        assert max(rank(site)[1] for _ in range(10)) < 4
        assert reads(site, "lost") == 10
    assert [record.levelname for record in lines(caplog)] == ["ERROR"]


def test_no_ranking_before_the_decisions_can_be_read(publish, run_site, nowhere):
    publish(1)
    decisions = publish.data / "versions" / "decisions"
    decisions.mkdir(exist_ok=True)
    (decisions / "00000001.json").write_text("damaged")
    with run_site(redis={"url": nowhere}) as site:
        time.sleep(0.5)
        assert not site.client.ready()
        (decisions / "00000001.json").unlink()
        site.until_ready()
