"""A worker's backend: the engine of another process, at the other end of a socket."""

import asyncio
import itertools
import logging
import socket
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple

from serving.problems import Problem, shutting_down
from serving.questions import Question, Ranking
from serving.workers import frames
from serving.workers.figures import Family
from serving.workers.frames import Frames, ToWorker

log = logging.getLogger("serving.workers")


class EngineFailed(Exception):
    """A fault in the engine's process, whose log has its trace."""


class _Waiting(NamedTuple):
    future: "asyncio.Future[Any]"
    question: Question | None


class RemoteCore(Frames[ToWorker]):
    """A `Backend` in another process.

    Many questions are under way at a time; each is answered whole, by one version. When the engine
    is gone they are refused with 503, and so are all that follow.
    """

    def __init__(
        self, ours: socket.socket, counted: Callable[[], list[Family]], gone: Callable[[], None]
    ) -> None:
        """ours: this end. counted: what this process has counted. gone: told when the engine is."""
        super().__init__(ToWorker)
        self._socket, self._counted, self._gone = ours, counted, gone
        self._loop: asyncio.AbstractEventLoop | None = None
        self._numbers = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._draining = self._closed = False
        self.lost = False
        """Whether the engine went before this process was told to."""

    async def start(self) -> None:
        """As Backend.start."""
        self._loop = asyncio.get_running_loop()
        await self._loop.create_unix_connection(lambda: self, sock=self._socket)

    def ask(self, question: Question) -> "asyncio.Future[Ranking]":
        """As Backend.ask."""
        number, future = self._expect(question)
        self.send(frames.asks(number, time.monotonic(), question))
        return future

    def appended(self, topic: str) -> None:
        """As Backend.appended."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.send, frames.Appended(topic))

    async def require_ready(self) -> None:
        """As Backend.require_ready."""
        if self._draining:
            raise shutting_down()
        await self._call("require_ready")

    async def versions(self) -> dict[str, Any]:
        """As Backend.versions."""
        found: dict[str, Any] = await self._call("versions")
        return found

    async def activate(self, number: int) -> dict[str, int | None]:
        """As Backend.activate."""
        decided: dict[str, int | None] = await self._call("activate", number)
        return decided

    async def unpin(self) -> dict[str, int | None]:
        """As Backend.unpin."""
        decided: dict[str, int | None] = await self._call("unpin")
        return decided

    async def exposition(self) -> bytes:
        """As Backend.exposition."""
        text: bytes = await self._call("exposition")
        return text

    def drain(self) -> None:
        """As Backend.drain."""
        self._draining = True

    def close(self) -> None:
        """As Backend.close. What was counted is told last."""
        self._closed = True
        self.send(frames.Counted(self._counted()))
        super().close()

    def received(self, frame: ToWorker) -> None:
        """An answer, or the question what was counted."""
        if isinstance(frame, frames.Count):
            self.send(frames.Counted(self._counted()))
            return
        waiting = self._waiting.pop(frame.id, None)
        if waiting is None or waiting.future.done():
            return
        if isinstance(frame, frames.Ranked):
            assert waiting.question is not None
            waiting.future.set_result(frames.ranking_of(frame, waiting.question))
        elif isinstance(frame, frames.Returned):
            waiting.future.set_result(frame.value)
        else:
            waiting.future.set_exception(_error(frame))

    def ended(self) -> None:
        """The engine is gone: nobody gets an answer from it any more."""
        self.lost = not self._closed
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(engine_gone())
        self._waiting.clear()
        if self.lost:
            log.error("the engine's process is gone: this worker ends")
            self._gone()

    async def _call(self, method: str, *arguments: int) -> Any:
        number, future = self._expect(None)
        self.send(frames.Calls(number, method, arguments))
        return await future

    def _expect(self, question: Question | None) -> tuple[int, "asyncio.Future[Any]"]:
        if self._transport is None:
            raise engine_gone()
        if self.crowded:
            raise too_slow()
        assert self._loop is not None
        number, future = next(self._numbers), self._loop.create_future()
        self._waiting[number] = _Waiting(future, question)
        future.add_done_callback(partial(self._done, number))
        return number, future

    def _done(self, number: int, future: "asyncio.Future[Any]") -> None:
        if future.cancelled() and self._waiting.pop(number, None) is not None:
            self.send(frames.Cancels(number))


def _error(frame: frames.Refused | frames.Failed) -> Exception:
    if isinstance(frame, frames.Failed):
        return EngineFailed(frame.error)
    status = HTTPStatus(frame.status)
    return Problem(frame.kind, status, frame.detail, frame.field, frame.headers)


def engine_gone() -> Problem:
    """503: the process that answers rankings has ended."""
    return Problem(
        "engine-gone",
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the process that answers has ended; nothing was decided or computed",
        headers={"Retry-After": "1"},
    )


def too_slow() -> Problem:
    """429: the engine does not even take questions in."""
    return Problem(
        "overloaded",
        HTTPStatus.TOO_MANY_REQUESTS,
        "the engine takes no more questions; try again later",
        headers={"Retry-After": "1"},
    )
