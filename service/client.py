"""A small client of the HTTP API. Needs httpx, not torch."""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import httpx

from service.actions import Id
from service.errors import FreshetError

TIMEOUT_SECONDS = 10.0
API_KEY = "FRESHET_API_KEY"
"""Environment variable: the key for servers that need one."""


class RequestError(FreshetError):
    """The server answered with a problem document."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        field = f" ({problem['field']})" if problem.get("field") else ""
        super().__init__(f"{status} {problem.get('title', '')}{field}: {problem.get('detail', '')}")
        self.status = status
        self.problem = problem
        """The document: type, title, status, detail and, where one is wrong, field."""


class Client:
    """Asks one server. A context manager; safe for several threads.

    `api_key` is sent with every request; absent, it is FRESHET_API_KEY of the environment, if set.
    Every method raises RequestError for an error answer and httpx.TransportError when the server
    cannot be reached. Answers are the JSON documents of docs/api.md as dicts.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        timeout_seconds: float = TIMEOUT_SECONDS,
        api_key: str | None = None,
    ) -> None:
        key = os.environ.get(API_KEY, "") if api_key is None else api_key
        headers = {"X-API-Key": key.strip()} if key.strip() else {}
        self._http = httpx.Client(base_url=url, timeout=timeout_seconds, headers=headers)

    def rank(self, user: Id, items: Sequence[Id], **options: Any) -> dict[str, Any]:
        """Put `items` in order for `user`. Options: at, n, request, context."""
        return self._post("/v1/rank", {"user": user, "items": list(items), **options})

    def recommend(self, user: Id, n: int = 10, **options: Any) -> dict[str, Any]:
        """The best n items. Options: exclude_seen, exclude, categories, exclude_categories,
        features, at, request, context."""
        return self._post("/v1/recommend", {"user": user, "n": n, **options})

    def act(self, actions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Append actions: {"accepted": n, "rejected": [...]}; on return they are durable."""
        return self._post("/v1/actions", {"actions": list(actions)})

    def impressions(self, impressions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Append lists that were really shown."""
        return self._post("/v1/impressions", {"impressions": list(impressions)})

    def put_items(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Append what is known of items; of each item the latest record counts whole."""
        return self._post("/v1/items", {"items": list(items)})

    def versions(self) -> dict[str, Any]:
        """The version that answers, the available, held and refused ones, and what is pinned."""
        return self._answer(self._http.get("/v1/versions"))

    def activate(self, number: int) -> dict[str, Any]:
        """Pin a version: every server that follows the directory answers from it."""
        return self._post(f"/v1/versions/{number}/activate")

    def unpin(self) -> dict[str, Any]:
        """Let every server follow the newest version again."""
        return self._post("/v1/versions/unpin")

    def ready(self) -> bool:
        """Whether the server is up and ranks."""
        try:
            return self._http.get("/health/ready").is_success
        except httpx.TransportError:
            return False

    def _post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._answer(self._http.post(path, json=body))

    @staticmethod
    def _answer(response: httpx.Response) -> dict[str, Any]:
        try:
            document: dict[str, Any] = response.json()
            if not isinstance(document, dict):
                raise ValueError("no object")
        except ValueError:
            if response.is_success:
                raise RequestError(
                    response.status_code, {"title": "no answer of a Freshet server"}
                ) from None
            document = {"title": response.reason_phrase, "detail": response.text[:200]}
        if response.is_error:
            raise RequestError(response.status_code, document)
        return document

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
