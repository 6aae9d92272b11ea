"""The HTTP side of a process: uvicorn with this server's limits, stopped in order."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import uvicorn

from serving.app import create_app
from serving.connections import connections
from serving.server import Server

FINISH_SECONDS = 10
"""How long requests under way may take after the drain before they are cut off."""


class Http(uvicorn.Server):
    """uvicorn, stopped in order: not ready, wait for balancers, finish what runs, exit 0."""

    def __init__(self, server: Server, host: str, port: int) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(server),
                host=host,
                port=port,
                loop="uvloop",
                http=connections(server.settings, server.metrics),
                timeout_keep_alive=server.settings.keep_alive_seconds,
                ws="none",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=FINISH_SECONDS,
            )
        )
        self._server = server

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT begin the drain; unlike uvicorn's own they are not raised again."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        yield

    def _drain(self) -> None:
        self._server.drain()
        loop = asyncio.get_running_loop()
        loop.call_later(self._server.settings.drain_seconds, self.stop)

    def stop(self) -> None:
        """Take nothing in any more, and end when what runs is finished."""
        self.should_exit = True
