"""The engine's end of a worker's socket: takes questions in, hands answers back."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from serving.core import Core
from serving.problems import Problem
from serving.questions import Ranking
from serving.workers import frames
from serving.workers.figures import Family
from serving.workers.frames import Frames, ToEngine

log = logging.getLogger("serving.workers")

UNDER_WAY = 1024
"""Of one worker so much is under way at most; more waits in the socket, and then in the worker."""

Method = Callable[..., Awaitable[Any]]


class Desk(Frames[ToEngine]):
    """One worker's. What it has under way and what it has not read yet are bounded; beyond that
    nothing is read from it either."""

    def __init__(self, core: Core, methods: Mapping[str, Method]) -> None:
        """methods: what a worker may call."""
        super().__init__(ToEngine)
        self._core, self._methods = core, methods
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._paused = False
        """Whether nothing is read from the worker."""
        self._count: asyncio.Future[None] | None = None
        self.counted: list[Family] = []
        """What the worker said last that it has counted."""
        self.gone = asyncio.Event()

    async def count(self) -> None:
        """Have `counted` brought up to date; returns when it is, or the worker is gone."""
        if self._transport is None:
            return
        if self._count is None:
            self._count = asyncio.get_running_loop().create_future()
            self.send(frames.Count())
        await asyncio.shield(self._count)

    def received(self, frame: ToEngine) -> None:
        """A question, or what is no question any more."""
        match frame:
            case frames.Ranks() | frames.Recommends():
                self._ask(frame)
            case frames.Calls():
                answer = self._methods[frame.method](*frame.arguments)
                self._await(frame.id, asyncio.ensure_future(answer), frames.Returned)
            case frames.Cancels():
                if (asked := self._asked.get(frame.id)) is not None:
                    asked.cancel()
            case frames.Appended():
                self._core.appended(frame.topic)
            case frames.Counted():
                self.counted = frame.families
                self._told()

    def ended(self) -> None:
        """The worker is gone: nobody waits for its answers."""
        for asked in list(self._asked.values()):
            asked.cancel()
        self._told()
        self.gone.set()

    @property
    def held(self) -> bool:
        """Whether the worker has enough under way, or does not read its answers."""
        return self.crowded or len(self._asked) >= UNDER_WAY

    def data_received(self, data: bytes) -> None:
        """Frames came: they are taken while they may be, and no more are read else."""
        super().data_received(data)
        self._read_or_not()

    def resume_writing(self) -> None:
        """The worker reads again."""
        super().resume_writing()
        self._go_on()

    def _go_on(self) -> None:
        """Something was answered or read: take what waited for that."""
        if self._paused and not self.held:
            self.take()
            self._read_or_not()

    def _read_or_not(self) -> None:
        if self._transport is None or self.held == self._paused:
            return
        self._paused = self.held
        if self._paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _ask(self, frame: frames.Ranks | frames.Recommends) -> None:
        try:
            asked = self._core.ask(frames.question_of(frame), frame.since)
        except Problem as problem:
            self.send(frames.refusal(frame.id, problem))
        else:
            self._await(frame.id, asked, frames.Ranked)

    def _await(
        self,
        number: int,
        answer: "asyncio.Future[Any]",
        frame: type[frames.Ranked] | type[frames.Returned],
    ) -> None:
        self._asked[number] = answer
        answer.add_done_callback(partial(self._answer, number, frame))

    def _answer(
        self,
        number: int,
        frame: type[frames.Ranked] | type[frames.Returned],
        answer: "asyncio.Future[Ranking | Any]",
    ) -> None:
        self._asked.pop(number, None)
        self._say(number, frame, answer)
        self._go_on()

    def _say(
        self,
        number: int,
        frame: type[frames.Ranked] | type[frames.Returned],
        answer: "asyncio.Future[Ranking | Any]",
    ) -> None:
        if answer.cancelled():
            return
        try:
            self.send(frame(number, answer.result()))
        except Problem as problem:
            self.send(frames.refusal(number, problem))
        except Exception as error:  # or the answer cannot travel: somebody waits all the same
            log.error("a request failed in the engine", exc_info=error)
            self.send(frames.Failed(number, repr(error)))

    def _told(self) -> None:
        if self._count is not None and not self._count.done():
            self._count.set_result(None)
        self._count = None
