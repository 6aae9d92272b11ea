"""`python -m serving` as a process: starts, serves, drains and leaves with status 0."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from service.commands.processes import free_port
from serving.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def process(tmp_path, publish):
    """A server process with version 1, its port, and the file of its log."""
    publish(1)
    (tmp_path / "settings.toml").write_text("[serving]\ndrain_seconds = 0.3\n")
    port = free_port()
    command = [sys.executable, "-m", "serving", "--data", str(tmp_path), "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        started = subprocess.Popen(
            [*command, "--settings", str(tmp_path / "settings.toml")],
            cwd=ROOT,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        yield started, f"http://127.0.0.1:{port}", tmp_path / "log"
    started.kill()
    started.wait()


def wait_ready(url: str, started: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and started.poll() is None:
        try:
            if httpx.get(f"{url}/health/ready", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("the server did not become ready")


def test_a_stopped_server_is_not_ready_finishes_and_exits_with_0(process):
    started, url, log = process
    wait_ready(url, started)
    statuses, errors = [], []

    def load() -> None:
        with httpx.Client(base_url=url, timeout=30) as http:
            while True:
                try:
                    answer = http.post("/v1/rank", json={"user": "secret-user", "items": ["i1"]})
                except httpx.ConnectError:
                    return
                except httpx.TransportError as error:
                    errors.append(error)
                    return
                statuses.append(answer.status_code)

    thread = threading.Thread(target=load)
    thread.start()
    while not statuses:
        time.sleep(0.01)
    with httpx.Client(base_url=url) as http:
        http.get("/health/live")
        started.send_signal(signal.SIGTERM)
        answer = http.get("/health/ready")
        while answer.status_code == 200:
            answer = http.get("/health/ready")
        assert answer.json()["detail"] == "the server is shutting down"
    assert started.wait(30) == 0
    thread.join()
    assert set(statuses) == {200}
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    ranked = [line for line in lines if line.get("route") == "/v1/rank"]
    assert len(ranked) >= len(statuses)
    assert {"request_id", "user", "version", "took_ms", "status"} <= set(ranked[0])
    assert "secret-user" not in log.read_text()


def test_wrong_settings_are_explained_with_status_2(tmp_path, capsys):
    settings = tmp_path / "settings.toml"
    settings.write_text("[serving]\nbody_limit = 7\n")
    assert main(["--data", str(tmp_path), "--settings", str(settings)]) == 2
    assert "did you mean body_limit_bytes?" in capsys.readouterr().err
