"""One metric sample and one log line per request. Users appear hashed, bodies not at all."""

import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import ServingMetrics

log = logging.getLogger("serving.access")

NOTES = "freshet.notes"
"""Key of the ASGI scope under which a route leaves what its log line should say."""
QUIET = ("/metrics", "/health/live", "/health/ready")
"""Asked every few seconds by machines: logged at debug level."""


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
        notes: dict[str, Any] = {"method": scope["method"], "status": 500}
        scope[NOTES] = notes

        async def remember(message: Message) -> None:
            if message["type"] == "http.response.start":
                notes["status"] = message["status"]
            await send(message)

        try:
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
