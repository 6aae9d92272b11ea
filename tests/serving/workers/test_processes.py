"""A server of several processes: what is shared, what is not, and what dies."""

import itertools
import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
import pytest

from service.actions import Action
from service.streams import LocalStream
from tests.serving.conftest import Publisher
from tests.serving.workers.conftest import alive, children, started

RANK = {"user": "u1", "items": ["i1", "i2", "i3"]}


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    """A ready server with version 1 and two workers, for tests that leave it as it is."""
    data = tmp_path_factory.mktemp("standing")
    Publisher(data)(1)
    with started(data, 2) as made:
        yield made


class Load:
    """Clients that rank and act without a pause, each on a connection of its own."""

    def __init__(self, several, clients: int = 6) -> None:
        self.url, self.stopped = several.url, False
        self.statuses: list[int] = []
        self.problems: list[dict] = []
        self.accepted: list[str] = []
        self.broken: list[list[Exception]] = [[] for _ in range(clients)]
        self.threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.stopped = True
        for thread in self.threads:
            thread.join()

    def _ask(self, client: int) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as http:
            for number in range(10**9):
                if self.stopped:
                    return
                try:
                    self._one(http, f"a-{client}-{number}", number)
                except httpx.ConnectError:
                    return
                except httpx.TransportError as error:
                    self.broken[client].append(error)

    def _one(self, http: httpx.Client, name: str, number: int) -> None:
        if number % 2:
            answer = http.post("/v1/rank", json=RANK)
        else:
            action = {"user": name, "item": "i1", "action": "click", "id": name}
            answer = http.post("/v1/actions", json={"actions": [action]})
            if answer.status_code == 202:
                self.accepted.append(name)
        self.statuses.append(answer.status_code)
        if answer.status_code >= 400:
            self.problems.append(answer.json())


def logged(data: Path) -> set[str]:
    """The ids of all actions in the log."""
    stream = LocalStream(data / "stream")
    _, end = stream.bounds("actions", 0)
    found = [msgspec.json.decode(record.payload, type=Action).id
             for record in stream.read("actions", 0, 0, end)]  # fmt: skip
    stream.close()
    return set(found)


def test_a_killed_worker_costs_its_own_requests_and_is_replaced(several, tmp_path):
    load = Load(several)
    several.until(lambda: len(load.statuses) > 50)
    before = several.workers()
    os.kill(before[0], signal.SIGKILL)
    several.until(lambda: len(set(several.workers()) - set(before)) == 1)
    several.until(lambda: several.metrics().get("workers") == 2)
    answered = len(load.statuses)
    several.until(lambda: len(load.statuses) > answered + 50)
    load.stop()
    assert set(load.statuses) == {200, 202}
    assert all(len(broken) <= 1 for broken in load.broken)
    assert set(load.accepted) <= logged(tmp_path)
    assert several.metrics().get("worker_restarts_total") == 1
    assert all(map(alive, several.workers()))  # no zombie is left among the children
    assert "a worker ended with status -9" in several.log.read_text()
    assert several.stop() == 0


def test_a_worker_that_is_told_to_end_is_replaced_unless_all_are(several):
    load = Load(several)
    several.until(lambda: len(load.statuses) > 50)
    before = several.workers()
    os.kill(before[1], signal.SIGTERM)
    several.until(lambda: several.metrics().get("worker_restarts_total") == 1)
    several.until(lambda: several.metrics().get("workers") == 2)
    load.stop()
    assert set(load.statuses) == {200, 202}
    assert "a worker ended with status 0" in several.log.read_text()
    # As Ctrl-C in a terminal, or systemd, ends it.
    restarts = several.log.read_text().count("another starts")
    for pid in [several.process.pid, *several.workers()]:
        os.kill(pid, signal.SIGINT)
    assert several.process.wait(30) == 0
    assert several.log.read_text().count("another starts") == restarts


def test_when_the_engine_is_killed_all_end_who_waits_is_told_and_the_next_one_starts(
    several, start
):
    workers, answers = several.workers(), []

    def ask() -> None:
        answers.append(httpx.post(f"{several.url}/v1/rank", json=RANK, timeout=30))

    several.process.send_signal(signal.SIGSTOP)  # so that they wait
    before = sum(map(sockets, workers))
    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    several.until(lambda: sum(map(sockets, workers)) == before + 4)
    time.sleep(0.5)
    several.process.send_signal(signal.SIGKILL)
    for thread in asking:
        thread.join()
    assert [answer.status_code for answer in answers] == [503] * 4
    assert {answer.json()["type"] for answer in answers} == {"urn:freshet:problem:engine-gone"}
    assert {answer.headers["Retry-After"] for answer in answers} == {"1"}
    assert several.process.wait(10) == -signal.SIGKILL
    several.until(lambda: not any(map(alive, workers)), 20)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{several.url}/health/live")
    with start() as again:
        assert httpx.post(f"{again.url}/v1/rank", json=RANK).status_code == 200


def test_a_stopped_server_is_not_ready_finishes_and_exits_with_0(several, tmp_path):
    workers, load = several.workers(), Load(several)
    several.until(lambda: len(load.statuses) > 50)
    with several.open() as http:
        http.get("/health/live")
        several.process.send_signal(signal.SIGTERM)
        answer = several.until(lambda: http.get("/health/ready").status_code == 503 and http)
        assert answer.get("/health/ready").json()["detail"] == "the server is shutting down"
    assert several.process.wait(30) == 0
    load.stop()
    assert set(load.statuses) == {200, 202}
    assert set(load.accepted) <= logged(tmp_path)
    assert not any(map(alive, workers))
    assert '"level":"error"' not in several.log.read_text()


def test_tables_exist_once(standing):
    engine, workers = standing.process.pid, standing.workers()
    assert any("libtorch" in line for line in maps(engine))
    for pid in workers:
        assert not any("libtorch" in line or "llvmlite" in line for line in maps(pid))
        assert resident_mb(pid) < resident_mb(engine) / 3
        assert children(pid) == []


def maps(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/maps").read_text().splitlines()


def resident_mb(pid: int) -> float:
    return (
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
    )


def sockets(pid: int) -> int:
    links = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    return sum(link.startswith("socket:") for link in links)


def on_both(several, stack: ExitStack) -> list[httpx.Client]:
    """Clients with connections to both workers."""
    workers, clients = several.workers(), []
    before = [sockets(pid) for pid in workers]

    def both() -> bool:
        clients.append(stack.enter_context(several.open()))
        assert clients[-1].get("/health/live").is_success
        return all(sockets(pid) > n for pid, n in zip(workers, before, strict=True))

    several.until(both)
    return clients


def test_rates_hold_for_all_workers_together(start, publish, clicks):
    publish(1)
    limits = {
        "rankings_per_second": 0.001, "user_actions_per_second": 0.001, "burst_seconds": 20_000.0,
    }  # fmt: skip
    with start(limits=limits) as several, ExitStack() as stack:
        clients = itertools.cycle(on_both(several, stack))
        ranked = [next(clients).post("/v1/rank", json=RANK).status_code for _ in range(50)]
        assert (ranked.count(200), ranked.count(429)) == (20, 30)
        body = {"actions": clicks("u1", ["i1"] * 7)}
        posted = [next(clients).post("/v1/actions", json=body).json() for _ in range(10)]
        assert sum(answer["accepted"] for answer in posted) == 20
        assert several.metrics().get("rate_limited_total", what="rankings") == 30
        assert several.metrics().get("rate_limited_total", what="user_actions") == 50


def test_metrics_are_those_of_the_whole_server_and_never_fall(standing):
    def counted(text: str) -> float:
        return standing.parse(text).get("requests_total", route="/v1/rank", status="200")

    with ExitStack() as stack:
        clients = on_both(standing, stack)
        asked = itertools.cycle(clients)
        before = counted(clients[0].get("/metrics").text)
        for _ in range(40):
            assert next(asked).post("/v1/rank", json=RANK).is_success
        whole = {counted(client.get("/metrics").text) for client in clients}
        assert whole == {before + 40.0}
        readings = standing.metrics()
        assert readings.get("request_seconds_count", route="/v1/rank") >= 40
        assert readings.get("readings_total", outcome="hit") >= 30
        assert [readings.get(name) for name in ("version", "ready", "workers")] == [1, 1, 2]
        own = resident_mb(standing.process.pid) + sum(map(resident_mb, standing.workers()))
        assert readings.get("process_resident_memory_bytes") / 2**20 == pytest.approx(own, rel=0.1)
    restarts = readings.get("worker_restarts_total")
    os.kill(standing.workers()[0], signal.SIGKILL)
    standing.until(lambda: standing.metrics().get("worker_restarts_total") == restarts + 1)
    assert {counted(httpx.get(f"{standing.url}/metrics").text)} == whole


def test_a_client_that_goes_is_forgotten_by_worker_and_engine(standing):
    """The engine is stopped, so that the requests wait; later it answers none of them, but for
    those that its thread has begun before the next frame was read."""

    def ranked() -> float:
        return sum(standing.metrics().by_label("readings_total", "outcome").values())

    def gone() -> float:
        return standing.metrics().get("requests_total", route="/v1/rank", status="400")

    before = ranked()
    standing.process.send_signal(signal.SIGSTOP)
    for _ in range(15):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{standing.url}/v1/rank", json=RANK, timeout=0.2)
    standing.process.send_signal(signal.SIGCONT)
    standing.until(lambda: gone() == 15)
    assert ranked() - before < 15
    assert standing.metrics().get("requests_in_flight") == 0


def test_an_action_is_in_the_history_at_once(standing, clicks):
    with standing.open() as http:
        for seen in range(1, 6):
            assert http.post("/v1/actions", json={"actions": clicks("fresh", ["i3"])}).is_success

            def history(http=http) -> int:
                answer = http.post("/v1/rank?explain=true", json={**RANK, "user": "fresh"})
                return answer.json()["explanation"]["history"]

            standing.until(lambda seen=seen, history=history: history() == seen, 5)
