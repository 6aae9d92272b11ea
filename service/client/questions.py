"""What the clients ask, and how they read what comes back; nothing here sends or waits."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import httpx

from service.actions import Id
from service.client.answers import AppendAnswer, PinAnswer, RankAnswer, VersionsAnswer
from service.client.records import (
    PostedAction,
    PostedImpression,
    PostedItem,
    RankOptions,
    RecommendOptions,
    counts_once,
    with_ids,
)
from service.errors import FreshetError

API_KEY = "FRESHET_API_KEY"
"""Environment variable: the key for servers that need one."""
TIMEOUT_SECONDS, PATIENCE_SECONDS = 10.0, 30.0
"""Of one attempt and of a call with all its attempts, unless a client is told otherwise."""

Outcome = httpx.Response | httpx.TransportError
"""An answer, or why there was none."""
A = TypeVar("A")


class RequestError(FreshetError):
    """The server answered with a problem document."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        field = f" ({problem['field']})" if problem.get("field") else ""
        super().__init__(f"{status} {problem.get('title', '')}{field}: {problem.get('detail', '')}")
        self.status = status
        self.problem = problem
        """The document: type, title, status, detail and, where one is wrong, field."""


@dataclass(frozen=True)
class Question(Generic[A]):
    """One request, and by its type what answers it."""

    method: str
    path: str
    body: Mapping[str, object] | None = None
    repeatable: bool = True
    """Whether asking twice comes to the same as asking once."""

    def read(self, outcome: Outcome) -> A:
        """The answer. Raises RequestError for an error answer, and the error of a connection."""
        if isinstance(outcome, httpx.TransportError):
            raise outcome
        document = _document(outcome)
        if outcome.is_error:
            raise RequestError(outcome.status_code, document)
        return cast(A, document)


READY = Question[object]("GET", "/health/ready")


def is_ready(outcome: Outcome) -> bool:
    """Whether this is the answer of a server that ranks."""
    return isinstance(outcome, httpx.Response) and outcome.is_success


def rank(
    user: Id, items: Sequence[Id], options: RankOptions, explain: bool
) -> Question[RankAnswer]:
    """Candidates in order."""
    body = {"user": user, "items": list(items), **options}
    return Question("POST", _explained("/v1/rank", explain), body)


def recommend(user: Id, n: int, options: RecommendOptions, explain: bool) -> Question[RankAnswer]:
    """The best of the catalogue."""
    body = {"user": user, "n": n, **options}
    return Question("POST", _explained("/v1/recommend", explain), body)


def act(actions: Sequence[PostedAction]) -> Question[AppendAnswer]:
    """Actions for the log, each with an id."""
    named = with_ids(actions)
    return Question("POST", "/v1/actions", {"actions": named}, counts_once(named))


def impressions(shown: Sequence[PostedImpression]) -> Question[AppendAnswer]:
    """Lists that were shown; of a request the latest counts, so that a repeat changes nothing."""
    return Question("POST", "/v1/impressions", {"impressions": list(shown)})


def put_items(items: Sequence[PostedItem]) -> Question[AppendAnswer]:
    """What is known of items; of an item the latest counts, so that a repeat changes nothing."""
    return Question("POST", "/v1/items", {"items": list(items)})


def versions() -> Question[VersionsAnswer]:
    """What the server knows of versions."""
    return Question("GET", "/v1/versions")


def activate(number: int) -> Question[PinAnswer]:
    """A pin. A repeat could undo what another operator decided in between."""
    return Question("POST", f"/v1/versions/{number}/activate", repeatable=False)


def unpin() -> Question[PinAnswer]:
    """The end of a pin. A repeat could undo what another operator decided in between."""
    return Question("POST", "/v1/versions/unpin", repeatable=False)


def key_headers(api_key: str | None) -> dict[str, str]:
    """How a key is sent; absent, it is that of the environment, if there is one."""
    key = (os.environ.get(API_KEY, "") if api_key is None else api_key).strip()
    return {"X-API-Key": key} if key else {}


def _explained(path: str, explain: bool) -> str:
    return f"{path}?explain=true" if explain else path


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        document = None
    if isinstance(document, dict):
        return document
    if response.is_success:
        raise RequestError(response.status_code, {"title": "no answer of a Freshet server"})
    return {"title": response.reason_phrase, "detail": response.text[:200]}
