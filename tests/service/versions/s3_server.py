"""An S3 server in a process of its own: moto, which decides one request at a time, and its faults.

python s3_server.py prints its port, and ends when its standard input does. moto looks whether an
object is there and puts it in two steps; the lock makes them one, as S3 promises. `POST
/_fault/NAME/TIMES` makes the next TIMES conditional puts go wrong. Run by
test_s3.py; no test itself.
"""

import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

Answer = tuple[str, list[tuple[str, str]], bytes]


class Server:
    """The WSGI application: every request passes, or meets the fault that was asked for."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._fault, self._times = "", 0

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            status, headers, body = self._answer(environ)
        start(status, headers)
        return [body]

    def _answer(self, environ: dict[str, Any]) -> Answer:
        if asked := re.fullmatch(r"/_fault/(\w+)/(\d+)", environ["PATH_INFO"]):
            self._fault, self._times = asked[1], int(asked[2])
            return "200 OK", [("Content-Length", "0")], b""
        if "HTTP_IF_NONE_MATCH" in environ and self._times > 0:
            self._times -= 1
            return self._faulty(environ)
        return self._passed(environ)

    def _faulty(self, environ: dict[str, Any]) -> Answer:
        if self._fault == "ignores":  # a store that knows no conditional put
            del environ["HTTP_IF_NONE_MATCH"]
        elif self._fault == "conflict":  # AWS, when two puts cross each other
            return _error("409 Conflict", "ConditionalRequestConflict")
        status, headers, body = self._passed(environ)
        if self._fault == "lost":  # the answer, not the request
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionError
        if self._fault == "terse" and status.startswith("412"):  # MinIO names no condition
            return _error(status, "PreconditionFailed")
        return status, headers, body

    def _passed(self, environ: dict[str, Any]) -> Answer:
        heard: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], error: Any = None) -> None:
            heard[:] = [status, headers]

        body = b"".join(self._moto(environ, start))
        return heard[0], heard[1], body


def _error(status: str, code: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>on demand</Message></Error>".encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    return status, headers, body


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    server = make_server(
        "127.0.0.1", 0, Server(), threaded=True, request_handler=MotoRequestHandler
    )
    print(server.server_address[1], flush=True)
    server.serve_forever()
