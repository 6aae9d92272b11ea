"""One metric sample and one log line per request. Users appear hashed, bodies and keys not at all.

Every answer carries the request's id as `X-Request-Id`, and what browsers must be told so that an
answer is neither kept, nor guessed at, nor shown inside another page.
"""

import logging
import secrets
import time
from contextlib import nullcontext as idle
from typing import Any
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.logs import about
from service.metrics import ServingMetrics
from serving.traces import traceparent

log = logging.getLogger("serving.access")

NOTES = "freshet.notes"
"""Key of the ASGI scope under which a route leaves what its log line should say."""
QUIET = ("/metrics", "/health/live", "/health/ready")
"""Asked every few seconds by machines: logged at debug level."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PAGES = ("/docs", "/redoc")
"""Made for browsers, with scripts from elsewhere: they must not be framed either."""
PAGE_POLICY = "frame-ancestors 'none'"

VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
"""ASCII without spaces and controls."""


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


_OTHERS = _raw(HEADERS)
_PAGE = _raw({**HEADERS, "Content-Security-Policy": PAGE_POLICY})


class Access:
    """ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, metrics: ServingMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and record how it ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        notes: dict[str, Any] = {"request_id": f"r-{secrets.token_hex(8)}"}
        if parent := traceparent(scope["headers"]):
            notes["traceparent"] = parent
        scope[NOTES] = notes

        async def remember(message: Message) -> None:
            if message["type"] == "http.response.start":
                notes["status"] = message["status"]
                _add_headers(message, scope["path"], notes["request_id"])
            await send(message)

        with about(**notes):
            notes |= {"method": scope["method"], "status": 500}
            counted = scope["path"] not in QUIET
            try:
                with self._metrics.requests_in_flight.track_inprogress() if counted else idle():
                    await self._app(scope, receive, remember)
            finally:
                self._record(scope, notes, time.perf_counter() - started)

    def _record(self, scope: Scope, notes: dict[str, Any], seconds: float) -> None:
        # Only known paths become labels: a scanner must not fill the metrics.
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests_total.labels(route, str(notes["status"])).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        level = logging.DEBUG if route in QUIET else logging.INFO
        if log.isEnabledFor(level):
            fields = {"route": route, "took_ms": round(seconds * 1000, 3), **notes}
            log.log(level, "request", extra={"fields": fields})


def _add_headers(message: Message, path: str, request_id: str) -> None:
    headers: list[tuple[bytes, bytes]] = message["headers"]
    known = {name for name, _ in headers}
    own = [(b"x-request-id", _visible(request_id)), *(_PAGE if path.startswith(PAGES) else _OTHERS)]
    headers.extend(one for one in own if one[0] not in known)


def _visible(request_id: str) -> bytes:
    """The id as a header may hold it: a client's own may have any characters."""
    return quote(request_id, VISIBLE, errors="replace").encode()
