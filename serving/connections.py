"""Connections of clients that are slow, loud or too many: each costs bounded memory and time.

uvicorn's protocol waits for a request's head as long as it takes and keeps it whatever its size. A
request whose head is complete belongs to the application, which limits its body (`serving.body`).
"""

import asyncio
from http import HTTPStatus
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.metrics import ServingMetrics
from serving.problems import Problem
from serving.settings import ServingSettings

CROWDED = "freshet.crowded"
"""Key of the ASGI scope: whether the connection is one of too many."""
ASKED = "freshet.asked"
"""Key of the ASGI scope under which a route leaves what it waits for; a client that goes away
cancels it."""
GONE = "freshet.gone"
"""Key of the ASGI scope: set when the client has gone away."""
SPARE = 128
"""So many connections beyond the limit are told why; the next ones are closed at once."""
SENT_AHEAD = 64
"""Requests that a client may send before it has the answers of those before them."""
LINGER_SECONDS = 5.0
"""How long a client may take to read the last of an answer on a connection that is closed."""
ALWAYS_ANSWERED = ("/health/live", "/health/ready", "/metrics")


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with a deadline and a limit for heads. Made by `connections`."""

    settings: ServingSettings
    metrics: ServingMetrics

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._in_head = False
        self._received = 0
        self._refusal: Problem | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client came: the clock for its first request begins."""
        super().connection_made(transport)
        if len(self.connections) > self.settings.connections + SPARE:
            self._count("crowded")
            transport.abort()
            return
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone, with its timers and what it waited for."""
        self._clear_deadline()
        scope = cast(dict[str, Any] | None, self.scope) or {}
        scope[GONE] = True
        if (asked := scope.get(ASKED)) is not None:
            asked.cancel()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came. They may not go on for ever without becoming requests."""
        self._received += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._received > self._most_bytes():
            self._refuse(_too_large_head(self.settings.head_bytes), "large")
        elif self._idle() and (self._in_head or self.timeout_keep_alive_task is None):
            self._set_deadline()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._in_head, self._received = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is complete: the request begins, if its head is not too long."""
        head_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if head_bytes > self.settings.head_bytes:
            self._refusal = _too_large_head(self.settings.head_bytes)
            raise ValueError("the head is too long")  # the parser hands it to send_400_response
        if len(self.pipeline) >= SENT_AHEAD:
            raise ValueError("too many requests are sent ahead")
        self._in_head = False
        self._clear_deadline()
        scope = cast(dict[str, Any], self.scope)
        scope[CROWDED] = len(self.connections) > self.settings.connections
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """An answer is out; a next request that has begun must now go on."""
        super().on_response_complete()
        if self._in_head and self._idle():
            self._set_deadline()

    def send_400_response(self, msg: str) -> None:
        """What came is not HTTP, or more than is taken."""
        if self._refusal:
            self._refuse(self._refusal, "large")
        else:
            self._refuse(Problem("not-http", HTTPStatus.BAD_REQUEST, msg.lower()), "malformed")

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for long enough."""
        self._end()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered: not for ever."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.settings.body_seconds, self._abort)

    def resume_writing(self) -> None:
        """It reads on, or is gone."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        if self.flow is not None:
            super().resume_writing()

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _most_bytes(self) -> int:
        """Of one request as it travels: chunks have lines of their own, and trailers are kept."""
        settings = self.settings
        return (
            settings.head_bytes
            if self._in_head
            else settings.head_bytes + 2 * settings.body_limit_bytes
        )

    def _set_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.settings.head_seconds, self._too_slow)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        seconds = f"{self.settings.head_seconds:g} s"
        problem = f"no whole request came within {seconds}"
        self._refuse(Problem("slow-head", HTTPStatus.REQUEST_TIMEOUT, problem), "slow")

    def _refuse(self, problem: Problem, reason: str) -> None:
        """Answer, unless an answer is under way, and close."""
        self._count(reason)
        if self._idle() and not self.transport.is_closing():
            self.transport.write(_raw(problem))
        self._end()

    def _end(self) -> None:
        self._clear_deadline()
        if not self.transport.is_closing():
            self.transport.close()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _abort(self) -> None:
        self._count("stalled")
        self.transport.abort()

    def _count(self, reason: str) -> None:
        self.metrics.connections_refused_total.labels(reason).inc()


class Crowd:
    """ASGI middleware: requests of connections beyond the limit are answered with 503."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on unless there are too many connections."""
        if scope.get(CROWDED) and scope["path"] not in ALWAYS_ANSWERED:
            await _crowded().response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def connections(settings: ServingSettings, metrics: ServingMetrics) -> type[Connection]:
    """The protocol for uvicorn, with these limits."""
    return type("Connection", (Connection,), {"settings": settings, "metrics": metrics})


def _too_large_head(limit_bytes: int) -> Problem:
    return Problem(
        "large-head",
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        f"path and headers are longer than {limit_bytes} bytes",
    )


def _crowded() -> Problem:
    return Problem(
        "crowded",
        HTTPStatus.SERVICE_UNAVAILABLE,
        "too many connections are open; try again or elsewhere",
        headers={"Retry-After": "1", "Connection": "close"},
    )


def _raw(problem: Problem) -> bytes:
    """The answer as it travels, without the application."""
    response = problem.response()
    status = HTTPStatus(response.status_code)
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}".encode(),
        *(name + b": " + value for name, value in response.raw_headers),
        b"connection: close",
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body)
