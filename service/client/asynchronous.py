"""The client for programs with an event loop."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import TypeVar, Unpack

import httpx

from service.actions import Id
from service.client import questions
from service.client.answers import AppendAnswer, PinAnswer, RankAnswer, VersionsAnswer
from service.client.attempts import Attempts
from service.client.questions import Outcome, Question
from service.client.records import (
    PostedAction,
    PostedImpression,
    PostedItem,
    RankOptions,
    RecommendOptions,
)

A = TypeVar("A")


class AsyncClient:
    """As `Client`, for asyncio: the same arguments, methods and errors, to be awaited.

    An asynchronous context manager; safe for several tasks of one loop.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        timeout_seconds: float = questions.TIMEOUT_SECONDS,
        api_key: str | None = None,
        patience_seconds: float = questions.PATIENCE_SECONDS,
    ) -> None:
        self._timeout_seconds, self._patience_seconds = timeout_seconds, patience_seconds
        self._http = httpx.AsyncClient(base_url=url, headers=questions.key_headers(api_key))

    async def rank(
        self,
        user: Id,
        items: Sequence[Id],
        *,
        explain: bool = False,
        **options: Unpack[RankOptions],
    ) -> RankAnswer:
        """Put `items` in order for `user`; `explain`: and say why (a key needs scope explain)."""
        return await self._ask(questions.rank(user, items, options, explain))

    async def recommend(
        self, user: Id, n: int = 10, *, explain: bool = False, **options: Unpack[RecommendOptions]
    ) -> RankAnswer:
        """The best n items of the catalogue for `user`; `explain`: and say why."""
        return await self._ask(questions.recommend(user, n, options, explain))

    async def act(self, actions: Sequence[PostedAction]) -> AppendAnswer:
        """Append actions; on return the accepted ones are durable.

        An action without an id gets one, so that it counts once however often it is sent. Only a
        batch with more than 64 actions of one user is not sent again: so many ids are remembered.
        """
        return await self._ask(questions.act(actions))

    async def impressions(self, impressions: Sequence[PostedImpression]) -> AppendAnswer:
        """Append lists that were really shown."""
        return await self._ask(questions.impressions(impressions))

    async def put_items(self, items: Sequence[PostedItem]) -> AppendAnswer:
        """Append what is known of items; of each item the latest record counts whole."""
        return await self._ask(questions.put_items(items))

    async def versions(self) -> VersionsAnswer:
        """The version that answers, the available, held and refused ones, and what is pinned."""
        return await self._ask(questions.versions())

    async def activate(self, number: int) -> PinAnswer:
        """Pin a version: every server that follows the directory answers from it."""
        return await self._ask(questions.activate(number))

    async def unpin(self) -> PinAnswer:
        """Let every server follow the newest version again."""
        return await self._ask(questions.unpin())

    async def ready(self) -> bool:
        """Whether the server is up and ranks; asked once."""
        return questions.is_ready(await self._once(questions.READY, self._timeout_seconds))

    async def _ask(self, question: Question[A]) -> A:
        attempts = Attempts(question.repeatable, self._timeout_seconds, self._patience_seconds)
        while True:
            outcome = await self._once(question, attempts.timeout_seconds)
            wait_seconds = attempts.wait(outcome)
            if wait_seconds is None:
                return question.read(outcome)
            await asyncio.sleep(wait_seconds)

    async def _once(self, question: Question[A], timeout_seconds: float) -> Outcome:
        try:
            return await self._http.request(
                question.method, question.path, json=question.body, timeout=timeout_seconds
            )
        except httpx.TransportError as error:
            return error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
