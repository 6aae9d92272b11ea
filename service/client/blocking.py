"""The client for programs without an event loop."""

import time
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


class Client:
    """Asks one server. A context manager; safe for several threads.

    `api_key` is sent with every request; absent, it is FRESHET_API_KEY of the environment, if set.
    An attempt waits `timeout_seconds` for each of connection, request and answer. What fails on the
    way, and 429, 502, 503 and 504, is tried again until `patience_seconds` after the start of the
    call, where a repeat cannot count twice; 0 asks once.
    Every method raises RequestError for an error answer and httpx.TransportError when the server
    cannot be reached. Answers are the JSON documents of docs/api.md, as dicts.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        timeout_seconds: float = questions.TIMEOUT_SECONDS,
        api_key: str | None = None,
        patience_seconds: float = questions.PATIENCE_SECONDS,
    ) -> None:
        self._timeout_seconds, self._patience_seconds = timeout_seconds, patience_seconds
        self._http = httpx.Client(base_url=url, headers=questions.key_headers(api_key))

    def rank(
        self,
        user: Id,
        items: Sequence[Id],
        *,
        explain: bool = False,
        **options: Unpack[RankOptions],
    ) -> RankAnswer:
        """Put `items` in order for `user`; `explain`: and say why (a key needs scope explain)."""
        return self._ask(questions.rank(user, items, options, explain))

    def recommend(
        self, user: Id, n: int = 10, *, explain: bool = False, **options: Unpack[RecommendOptions]
    ) -> RankAnswer:
        """The best n items of the catalogue for `user`; `explain`: and say why."""
        return self._ask(questions.recommend(user, n, options, explain))

    def act(self, actions: Sequence[PostedAction]) -> AppendAnswer:
        """Append actions; on return the accepted ones are durable.

        An action without an id gets one, so that it counts once however often it is sent. Only a
        batch with more than 64 actions of one user is not sent again: so many ids are remembered.
        """
        return self._ask(questions.act(actions))

    def impressions(self, impressions: Sequence[PostedImpression]) -> AppendAnswer:
        """Append lists that were really shown."""
        return self._ask(questions.impressions(impressions))

    def put_items(self, items: Sequence[PostedItem]) -> AppendAnswer:
        """Append what is known of items; of each item the latest record counts whole."""
        return self._ask(questions.put_items(items))

    def versions(self) -> VersionsAnswer:
        """The version that answers, the available, held and refused ones, and what is pinned."""
        return self._ask(questions.versions())

    def activate(self, number: int) -> PinAnswer:
        """Pin a version: every server that follows the directory answers from it."""
        return self._ask(questions.activate(number))

    def unpin(self) -> PinAnswer:
        """Let every server follow the newest version again."""
        return self._ask(questions.unpin())

    def ready(self) -> bool:
        """Whether the server is up and ranks; asked once."""
        return questions.is_ready(self._once(questions.READY, self._timeout_seconds))

    def _ask(self, question: Question[A]) -> A:
        attempts = Attempts(question.repeatable, self._timeout_seconds, self._patience_seconds)
        while True:
            outcome = self._once(question, attempts.timeout_seconds)
            wait_seconds = attempts.wait(outcome)
            if wait_seconds is None:
                return question.read(outcome)
            time.sleep(wait_seconds)

    def _once(self, question: Question[A], timeout_seconds: float) -> Outcome:
        try:
            return self._http.request(
                question.method, question.path, json=question.body, timeout=timeout_seconds
            )
        except httpx.TransportError as error:
            return error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
