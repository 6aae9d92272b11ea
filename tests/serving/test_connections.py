"""Clients that are slow, loud, too many or no clients at all."""

import json
import socket
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest

from service.metrics import Readings

RANK = json.dumps({"user": "u1", "items": ["i1"]}).encode()
HEAD = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GET = b"GET /v1/versions HTTP/1.1\r\nHost: x\r\n"
QUICK = {"head_seconds": 0.5, "body_seconds": 0.5, "head_bytes": 4096, "body_limit_bytes": 65_536}


@pytest.fixture
def quick(publish, run_site):
    """A server that soon loses patience."""
    publish(1)
    with run_site(serving=QUICK) as site:
        site.until_ready()
        yield site


def answers(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    told = b""
    while more := connection.recv(65_536):
        told += more
    return told


def send_on(connection: socket.socket, content: bytes) -> None:
    for _ in range(5000):
        connection.sendall(content)


def kind(answer: bytes) -> str:
    return json.loads(answer.rpartition(b"\r\n\r\n")[2])["type"].rpartition(":")[2]


def refused(site, reason: str) -> float:
    text = site.http.get("/metrics").text
    return Readings(text).get("connections_refused_total", reason=reason)


@contextmanager
def seconds(least: float, most: float):
    began = time.monotonic()
    yield
    assert least <= time.monotonic() - began < most


@pytest.mark.parametrize("begun", [b"", b"POST", GET, GET + b"X: ", b"\r\n"])
def test_a_head_that_never_ends_is_408_after_its_time(quick, begun):
    with quick.connect() as connection, seconds(0.45, 5):
        if begun:
            connection.sendall(begun)
        told = answers(connection)
    assert told.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert kind(told) == "slow-head"
    assert refused(quick, "slow") == 1


def test_dripping_bytes_wins_no_time(quick):
    with quick.connect() as connection, seconds(0.45, 5):
        connection.settimeout(0.1)
        connection.sendall(GET)
        told = b""
        while not told:
            try:
                told = connection.recv(1000)
            except TimeoutError:
                connection.sendall(b"X: 1\r\n")
    assert b"408" in told


def test_a_second_request_has_a_deadline_too(quick):
    with quick.connect() as connection:
        connection.sendall(GET + b"\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /")
        with seconds(0.45, 5):
            assert kind(answers(connection)) == "slow-head"


def test_an_idle_connection_outlives_the_deadline_of_heads(quick):
    with quick.connect() as connection:
        for _ in range(2):
            connection.sendall(GET + b"\r\n")
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
            time.sleep(0.8)


def test_a_slow_body_is_408_after_its_time(quick):
    with quick.connect() as connection, seconds(0.45, 5):
        connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        told = answers(connection)
    assert told.startswith(b"HTTP/1.1 408")
    assert kind(told) == "slow-body"


@pytest.mark.parametrize("pieces", [1, 64])
def test_a_long_head_is_431_however_it_comes(quick, pieces):
    head = GET + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n"
    size = len(head) // pieces + 1
    with quick.connect() as connection:
        try:
            for start in range(0, len(head), size):
                connection.sendall(head[start : start + size])
                time.sleep(0.001)
            told = answers(connection)
        except ConnectionError:  # closed while it was sent
            told = b""
    assert not told or kind(told) == "large-head"
    assert refused(quick, "large") == 1


def test_a_head_just_long_enough_passes(quick):
    assert quick.http.get("/health/live", headers={"X": "x" * 3500}).is_success
    assert quick.http.get("/health/live", headers={"X": "x" * 4096}).status_code == 431
    assert quick.http.get("/" + "x" * 4096).status_code == 431


def test_trailers_without_end_are_cut_off(quick):
    with quick.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ")
        with pytest.raises(ConnectionError):
            send_on(connection, b"x" * 10_000)
    assert refused(quick, "large") == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"BREW / HTTP/1.1\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX\x00: 1\r\n\r\n",
    ],
)
def test_what_is_not_http_is_400_and_closed(quick, garbage):
    with quick.connect() as connection:
        connection.sendall(garbage)
        told = answers(connection)
    assert told.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404"))
    assert kind(told) in ("not-http", "not-found")
    assert quick.client.ready()


def test_connections_beyond_the_limit_are_told_so_and_health_answers(publish, run_site):
    publish(1)
    with run_site(serving={"connections": 4, "head_seconds": 30}) as site, ExitStack() as stack:
        site.until_ready()
        for _ in range(4):
            stack.enter_context(site.connect())
        site.http.get("/health/live")
        answer = site.http.get("/v1/versions")
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:freshet:problem:crowded"
        assert answer.headers["Retry-After"] == "1"
        assert site.http.get("/health/ready").is_success
        assert site.http.get("/metrics").is_success
        stack.close()
        site.until(lambda: site.http.get("/v1/versions").is_success)


def test_connections_far_beyond_the_limit_are_closed_at_once(publish, run_site, monkeypatch):
    monkeypatch.setattr("serving.connections.SPARE", 2)
    publish(1)
    with run_site(serving={"connections": 3, "head_seconds": 30}) as site, ExitStack() as stack:
        site.until_ready()
        many = [stack.enter_context(site.connect()) for _ in range(10)]
        many[-1].settimeout(10)
        with suppress(ConnectionError):
            assert many[-1].recv(1) == b""
        stack.close()
        site.until(lambda: site.http.get("/v1/versions").is_success)
        assert refused(site, "crowded") >= 5


def test_a_client_that_does_not_read_is_cut_off(quick):
    body = json.dumps({"user": "u1", "items": ["i1"] * 4096}).encode()  # 400 KB of answer
    with quick.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        with suppress(ConnectionError):
            for _ in range(60):
                connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        quick.until(lambda: refused(quick, "stalled") == 1)
    assert quick.client.ready()


def test_requests_sent_ahead_are_answered_in_order(quick):
    with quick.connect() as connection:
        connection.sendall((GET + b"\r\n") * 60)
        connection.sendall(b"GET /end HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        told = answers(connection)
    assert told.count(b"HTTP/1.1 200 OK") == 60
    assert kind(told) == "not-found"


def test_more_than_a_few_requests_ahead_close_the_connection(quick):
    with quick.connect() as connection:
        with suppress(ConnectionError):
            connection.sendall((GET + b"\r\n") * 200)
            assert answers(connection).count(b"HTTP/1.1 200 OK") < 200
        assert refused(quick, "malformed") == 1


def test_answers_are_not_kept_guessed_at_or_framed(site):
    for answer in (site.http.get("/v1/versions"), site.http.get("/nowhere")):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    page = site.http.get("/docs").headers["Content-Security-Policy"]
    assert page == "frame-ancestors 'none'"  # it loads scripts
