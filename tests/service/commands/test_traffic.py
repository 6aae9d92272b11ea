"""A feed over HTTP: against a real server, against one that is away, against one that refuses."""

import json
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.__main__ import app
from service.client import Client
from service.commands.feed import World
from service.commands.folder import DataFolder
from service.commands.processes import free_port
from service.commands.traffic import Traffic


def test_actions_and_lists_go_to_a_server_at_their_rates(tmp_path: Path) -> None:
    folder, port, metrics_port = DataFolder(tmp_path), free_port(), free_port()
    stop = threading.Event()
    with folder.trainer(metrics_port) as trainer, folder.server(port) as server:
        with Client(f"http://127.0.0.1:{port}") as client:
            traffic = Traffic(World(), client, 100.0, 10.0)
            feeding = threading.Thread(target=traffic.run, args=(stop,))
            feeding.start()
            deadline = time.monotonic() + 120
            while traffic.counts["lists"] < 40:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            stop.set()
            feeding.join()
        appended = server.look().get("actions_appended_total")
        trainer.look()
    assert appended == traffic.counts["actions"] + traffic.counts["lists"]
    assert 0 < traffic.counts["clicks"] <= traffic.counts["lists"]


class _Silent(BaseHTTPRequestHandler):
    """Answers every action with what its class says, and remembers the bodies."""

    status = 503
    bodies: list[bytes]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.status if len(self.bodies) < 3 else 202)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def answering(status: int) -> tuple[HTTPServer, list[bytes]]:
    bodies: list[bytes] = []
    handler = type("Handler", (_Silent,), {"status": status, "bodies": bodies})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, bodies


def test_what_is_not_taken_is_sent_again_with_the_same_ids() -> None:
    server, bodies = answering(503)
    stop = threading.Event()
    with Client(f"http://127.0.0.1:{server.server_port}", patience_seconds=0.0) as client:
        traffic = Traffic(World(), client, 20.0, 0.0)
        feeding = threading.Thread(target=traffic.run, args=(stop,))
        feeding.start()
        deadline = time.monotonic() + 30
        while not traffic.counts["actions"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        stop.set()
        feeding.join()
    server.shutdown()
    server.server_close()
    assert bodies[0] == bodies[1] == bodies[2]
    ids = [action["id"] for body in bodies[2:] for action in json.loads(body)["actions"]]
    assert len(set(ids)) == len(ids) == traffic.counts["actions"]
    assert traffic.counts["retries"] == 2


def test_a_refusal_ends_the_command_with_its_reason() -> None:
    server, _ = answering(401)
    url = f"http://127.0.0.1:{server.server_port}"
    ended = CliRunner().invoke(app, ["feed", "--url", url, "--actions-per-second", "50"])
    server.shutdown()
    server.server_close()
    assert ended.exit_code == 1
    assert "401" in ended.output


def test_a_feed_that_is_stopped_says_what_it_did_and_ends_with_0() -> None:
    server, bodies = answering(202)
    url = f"http://127.0.0.1:{server.server_port}"
    command = [sys.executable, "-m", "service", "feed", "--url", url, "--lists-per-second", "0"]
    feed = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(bodies) < 2:  # then the first was answered and counted
        assert time.monotonic() < deadline
        time.sleep(0.05)
    feed.send_signal(signal.SIGTERM)
    said, trouble = feed.communicate(timeout=30)
    server.shutdown()
    server.server_close()
    assert feed.returncode == 0, trouble
    counts = json.loads(said)
    assert counts["actions"] > 0
    assert counts["lists"] == 0


@pytest.mark.parametrize("rate", [3.0, 50.0])
def test_what_was_due_while_nobody_answered_is_not_made_up_for(rate: float) -> None:
    traffic = Traffic(World(), Client("http://127.0.0.1:1"), rate, 0.0)
    traffic._earn(60.0)
    assert traffic._due["actions"] == rate
    assert traffic.counts["missed"] == int(59 * rate)
