"""Errors as RFC 9457 problem documents: a stable `type`, the status, the field that is wrong."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:freshet:problem:"

TITLES = {
    "not-http": "This is not HTTP",
    "not-json": "The body is not JSON",
    "unauthorized": "A key is needed",
    "forbidden": "This key may not do this",
    "not-found": "There is nothing at this path",
    "no-such-version": "This version does not exist",
    "not-servable": "This version cannot be served",
    "method-not-allowed": "This path does not take this method",
    "too-large": "The body is too long",
    "not-json-type": "The body is not declared as JSON",
    "invalid-field": "A field is not valid",
    "rate-limited": "This key is over its rate",
    "engine-gone": "The process that answers has ended",
    "overloaded": "Too many requests are waiting",
    "not-ready": "No version is loaded yet",
    "log-unavailable": "The log did not take the records",
    "versions-unavailable": "The version directory cannot be read or written",
    "large-head": "The head of the request is too long",
    "slow-head": "The request took too long to begin",
    "crowded": "Too many connections are open",
    "slow-body": "The body took too long",
    "client-gone": "The client has gone",
    "internal": "The server failed",
}
"""Every problem type this server sends, with its title. Types are stable; titles are not."""


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(examples=[TYPE_PREFIX + "invalid-field"])
    title: str = Field(examples=[TITLES["invalid-field"]])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["must hold at least 1 element"])
    field: str | None = Field(None, description="Path of the wrong field", examples=["items[3]"])


class Problem(Exception):
    """Raised anywhere below a route; the application answers it as a problem document."""

    def __init__(
        self,
        kind: str,
        status: HTTPStatus,
        detail: str,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status = status
        self.detail = detail
        self.field = field
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The problem document as an HTTP answer."""
        document = {
            "type": TYPE_PREFIX + self.kind,
            "title": TITLES[self.kind],
            "status": self.status.value,
            "detail": self.detail,
            **({"field": self.field} if self.field is not None else {}),
        }
        body = msgspec.json.encode(document)
        return Response(body, self.status, self.headers, media_type=MEDIA_TYPE)


def invalid_field(field_path: str, detail: str) -> Problem:
    """422: `field_path` of the body cannot be used."""
    return Problem("invalid-field", HTTPStatus.UNPROCESSABLE_ENTITY, detail, field_path)


def shutting_down() -> Problem:
    """503: balancers should ask elsewhere."""
    return Problem(
        "not-ready",
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the server is shutting down",
        headers={"Retry-After": "1"},
    )


def explain(error: ValidationError) -> Problem:
    """What pydantic found wrong first, in the words of this API."""
    errors = error.errors(include_url=False, include_context=True, include_input=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        detail = first["msg"].removeprefix("Invalid JSON: ")
        return Problem("not-json", HTTPStatus.BAD_REQUEST, detail)
    where = _path(first["loc"])
    same = [found for found in errors if _path(found["loc"]) == where]
    return invalid_field(where, _detail(same))


def _path(location: tuple[int | str, ...]) -> str:
    """("items", 3, "constrained-str") -> "items[3]": the tags of union members are not fields."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in _UNION_TAGS:
            path += f".{part}" if path else part
    return path


_UNION_TAGS = {"constrained-str", "constrained-int", "str", "int", "float", "bool", "none"}
_WRONG_TYPE = {"string_type", "int_type", "float_type", "bool_type", "none_required"}
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
    "finite_number": "must be a finite number",
    "string_type": "must be a string",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "string_too_short": "must not be empty",
    "string_too_long": "must be at most {max_length} characters long",
    "too_short": "must hold at least {min_length} element(s), not {actual_length}",
    "too_long": "must hold at most {max_length} elements",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
}


def _detail(errors: list[Any]) -> str:
    """One sentence for all errors of one field: a union reports one per member."""
    telling = [found for found in errors if found["type"] not in _WRONG_TYPE]
    if not telling and len(errors) > 1:
        return "must be " + " or ".join(_WORDS[found["type"]][8:] for found in errors)
    found = (telling or errors)[0]
    words: str = _WORDS.get(found["type"], found["msg"])
    return words.format(**found.get("ctx", {}))
