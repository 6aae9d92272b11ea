"""HTTP/1.1 as far as a load needs it: a request in, status and body out, at little cost.

The generator shares its cores with what it measures; httpx costs several times as much per request
as everything else that it does.
"""

import asyncio
from typing import cast

_HEAD = "POST {path} HTTP/1.1\r\nHost: freshet\r\nContent-Type: application/json\r\n"
TIMEOUT_SECONDS = 30.0


class Unanswered(Exception):
    """The server is gone, or did not answer in time."""


class Site:
    """One server: as many connections as there are requests under way, kept for the next ones."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._idle: list[_Connection] = []

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises Unanswered."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await self._post(path, body)
        except (OSError, TimeoutError) as error:
            raise Unanswered(f"127.0.0.1:{self.port}{path}: {error}") from None

    async def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        connection = self._idle.pop() if self._idle else await self._connect()
        if connection.lost:  # while it was idle: nothing was sent on it
            connection = await self._connect()
        head = _HEAD.format(path=path) + f"Content-Length: {len(body)}\r\n\r\n"
        try:
            answer = await connection.ask(head.encode() + body)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Close the connections that nobody waits on."""
        for connection in self._idle:
            connection.close()

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, "127.0.0.1", self.port)
        return connection


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self.lost = False
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Send the request; the future has the answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._received.clear()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """Let go of the connection and of what it would still answer."""
        self.lost = True
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to write."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """What was asked stays unanswered."""
        self.lost = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(str(exc or "closed by the server")))

    def data_received(self, data: bytes) -> None:
        """Collect an answer."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        head = bytes(self._received[:end]).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self._received) >= end + 4 + length:
            status, body = int(head[9:12]), bytes(self._received[end + 4 : end + 4 + length])
            self._answer.set_result((status, body))
