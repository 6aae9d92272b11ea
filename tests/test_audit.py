"""`make audit`: pins are those of the installation, and advisories fail it when there are any."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KNOWN = {
    "id": "GHSA-0000-0000-0000",
    "modified": "2026-01-01T00:00:00Z",
    "summary": "made up",
    "affected": [{
        "package": {"name": "httpx", "ecosystem": "PyPI"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
    }],
}  # fmt: skip


class Osv(http.server.ThreadingHTTPServer):
    """A service of advisories that knows one, if any."""

    def __init__(self, vulnerable: str | None) -> None:
        super().__init__(("127.0.0.1", 0), _Questions)
        self.vulnerable, self.asked = vulnerable, set[str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/query"


class _Questions(http.server.BaseHTTPRequestHandler):
    server: Osv

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = question["package"]["name"]
        self.server.asked.add(name)
        answer = json.dumps({"vulns": [KNOWN]} if name == self.server.vulnerable else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def osv(request: pytest.FixtureRequest) -> Iterator[Osv]:
    with Osv(request.param) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield service
        service.shutdown()
        thread.join()


def audit(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "audit.py")],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("osv", [None], indirect=True)
def test_every_pin_is_asked_about_and_everything_installed_is_pinned(osv: Osv) -> None:
    done = audit(FRESHET_OSV_URL=osv.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No known vulnerabilities found" in done.stderr
    pinned = (ROOT / "constraints.txt").read_text().count("==")
    assert len(osv.asked - {"pip"}) == pinned


@pytest.mark.parametrize("osv", ["httpx"], indirect=True)
def test_a_known_vulnerability_fails(osv: Osv) -> None:
    done = audit(FRESHET_OSV_URL=osv.url)
    assert done.returncode == 1
    assert "GHSA-0000-0000-0000" in done.stdout


def test_where_nobody_answers_it_says_so_and_fails_only_if_it_must() -> None:
    nowhere = "http://127.0.0.1:9/v1/query"
    done = audit(FRESHET_OSV_URL=nowhere)
    assert done.returncode == 0, done.stderr
    assert f"audit: NO ADVISORY WAS LOOKED AT: {nowhere} does not answer here" in done.stdout
    assert audit(FRESHET_OSV_URL=nowhere, FRESHET_AUDIT="required").returncode == 1
