"""A small HTTP server that fails as it is told, one request after another."""

import json
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import httpx

Step = Callable[[socket.socket, bytes], None]
"""What to do with a connection on which a whole request came; then it is closed."""


class Faulty:
    """Takes one request per connection and does the next of its steps, the last one ever again."""

    def __init__(self, *steps: Step) -> None:
        self.requests: list[bytes] = []
        self._steps = steps
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._stopped = threading.Event()
        self._serving = threading.Thread(target=self._serve, daemon=True)
        self._serving.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def bodies(self) -> list[Any]:
        """What was sent, as JSON."""
        return [json.loads(request.partition(b"\r\n\r\n")[2]) for request in self.requests]

    def close(self) -> None:
        self._stopped.set()
        # A blocked accept does not notice a close.
        socket.create_connection(self._listening.getsockname()).close()
        self._serving.join()
        self._listening.close()

    def _serve(self) -> None:
        while not self._stopped.is_set():
            connection, _ = self._listening.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            request = _request(connection)
            if request:
                step = self._steps[min(len(self.requests), len(self._steps) - 1)]
                self.requests.append(request)
                step(connection, request)


def answers(status: int, document: object, **headers: str) -> Step:
    """An answer with JSON."""
    body = json.dumps(document).encode()
    lines = [f"HTTP/1.1 {status} So", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return lambda connection, _: connection.sendall(
        "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    )


def resets(connection: socket.socket, _: bytes) -> None:
    """The answer begins, and the connection is reset."""
    connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\n{")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def is_silent(connection: socket.socket, _: bytes) -> None:
    """Nothing, until the client gives up."""
    connection.recv(1)


def resets_after(url: str) -> Step:
    """Another server does it all, but nobody learns of it."""

    def step(connection: socket.socket, request: bytes) -> None:
        passes_on(url)(_Nowhere(), request)
        resets(connection, b"")

    return step


def passes_on(url: str) -> Step:
    """Another server answers."""

    def step(connection: Any, request: bytes) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        answer = httpx.post(url + path, content=body, headers={"Content-Type": "application/json"})
        answers(answer.status_code, answer.json())(connection, b"")

    return step


class _Nowhere:
    def sendall(self, _: bytes) -> None:
        """Into nothing."""


def _request(connection: socket.socket) -> bytes:
    """A whole request; nothing if the client left before."""
    received = b""
    while True:
        head, found, body = received.partition(b"\r\n\r\n")
        if found and len(body) >= _length(head):
            return received
        more = connection.recv(65_536)
        if not more:
            return b""
        received += more


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0
