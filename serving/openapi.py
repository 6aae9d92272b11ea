"""What the OpenAPI document says beyond what FastAPI sees by itself: bodies, errors, headers."""

from collections.abc import Iterator
from typing import Any

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel

from serving.limits import MAX_BATCH
from serving.problems import MEDIA_TYPE, ProblemDocument

REFERENCE = "#/components/schemas/"
SCHEMAS = "x-schemas"
"""Where a route keeps the schemas of its body until the document is complete: FastAPI would make
their whole numbers floats, and 2^63 as a float stands for many."""
MEANINGS = {
    400: "Not HTTP, not JSON, or not complete",
    401: "No key, an unknown one or an expired one",
    403: "The key lacks the scope, or a page of another origin asks",
    404: "There is no such version",
    408: "The request or its body took too long; the connection is closed",
    409: "The version cannot be served",
    413: "The body is too long; the connection is closed",
    415: "Content-Type is not application/json",
    422: "A field is not valid; `field` names it",
    429: "The key is over its rate, or too many requests wait",
    431: "Path and headers are too long; the connection is closed",
    500: "A fault of the server; its log has it",
    503: "For now the server cannot do this: not ready, too busy, or what it needs is away",
}
ANYWHERE = (400, 408, 431, 500)
"""What may be answered whatever is asked."""
OF_CONNECTIONS = (400, 408, 431)
"""What may be answered before there is a request that an id could name."""
REQUEST_ID = "X-Request-Id"
HEADERS = {
    REQUEST_ID: "The id under which the log has the request",
    "Retry-After": "Seconds after which to try again",
    "WWW-Authenticate": "How keys are sent",
}
OWN_HEADERS = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
EXPLAINED: dict[str, Any] = {
    "parameters": [
        {
            "name": "explain",
            "in": "query",
            "required": False,
            "description": "Say why: needs a key with scope explain",
            "schema": {"type": "boolean", "default": False},
        }
    ]
}
"""A ranking can be explained."""
TIMED: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            "Server-Timing": {
                "description": "`engine;dur=MS`: the engine's part, its queue included",
                "required": True,
                "schema": {"type": "string", "pattern": r"^engine;dur=[0-9]+\.[0-9]{3}$"},
            }
        }
    }
}
"""A ranking says what the engine took."""


class Described(FastAPI):
    """An application whose document names every body and what each answer carries."""

    def openapi(self) -> dict[str, Any]:
        """The document; made once."""
        if self.openapi_schema is None:
            _complete(super().openapi())
        assert self.openapi_schema is not None
        return self.openapi_schema


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """A route's answers with these statuses, and those of any route, are problem documents."""
    content = {MEDIA_TYPE: {"schema": {"$ref": REFERENCE + ProblemDocument.__name__}}}
    return {
        status: {"description": MEANINGS[status], "content": content}
        for status in sorted({*ANYWHERE, *statuses})
    }


def takes(kind: type[BaseModel]) -> dict[str, Any]:
    """The body is an object of this kind."""
    schema = kind.model_json_schema(ref_template=REFERENCE + "{model}")
    return _request_body(kind.__name__, {**schema.pop("$defs", {}), kind.__name__: schema})


def takes_batch(name: str, kind: type[msgspec.Struct], example: dict[str, Any]) -> dict[str, Any]:
    """The body holds a list of records of this kind under `name`."""
    _, schemas = msgspec.json.schema_components([kind], ref_template=REFERENCE + "{name}")
    elements = {
        "type": "array",
        "items": {"$ref": REFERENCE + kind.__name__},
        "minItems": 1,
        "maxItems": MAX_BATCH,
    }
    title = f"{kind.__name__}s"
    batch = {
        "title": title,
        "type": "object",
        "required": [name],
        "properties": {name: elements},
        "additionalProperties": False,
        "example": {name: [example]},
    }
    return _request_body(title, {**schemas, title: batch})


def _request_body(name: str, schemas: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": REFERENCE + name}}}
    return {"requestBody": {"required": True, "content": content}, SCHEMAS: schemas}


def _complete(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    schemas[ProblemDocument.__name__] = ProblemDocument.model_json_schema()
    for operation in _operations(document):
        schemas.update(operation.pop(SCHEMAS, {}))
        answers = operation["responses"]
        # FastAPI's own: a path that it cannot read is no path of this API, and answered with 404.
        if "422" in answers and MEDIA_TYPE not in answers["422"]["content"]:
            del answers["422"]
        for status, answer in answers.items():
            answer["headers"] = _headers(int(status)) | answer.get("headers", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document["paths"].values():
        yield from methods.values()


def _headers(status: int) -> dict[str, Any]:
    names = [REQUEST_ID, *([OWN_HEADERS[status]] if status in OWN_HEADERS else [])]
    return {
        name: {
            "description": HEADERS[name],
            "required": status not in OF_CONNECTIONS,
            "schema": {"type": "integer", "minimum": 1} if name == "Retry-After" else _TEXT,
        }
        for name in names
    }


_TEXT = {"type": "string"}
