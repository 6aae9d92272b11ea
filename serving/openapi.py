"""How routes are described on the OpenAPI page, beyond what FastAPI sees by itself."""

from http import HTTPStatus
from typing import Any

import msgspec
from pydantic import BaseModel

from serving.limits import MAX_BATCH
from serving.problems import MEDIA_TYPE, ProblemDocument

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


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Answers with these statuses are problem documents."""
    schema = {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}
    return {
        status: {
            "model": ProblemDocument,
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def takes(kind: type[BaseModel]) -> dict[str, Any]:
    """The body is an object of this kind."""
    return _request_body(kind.model_json_schema())


def takes_batch(name: str, kind: type[msgspec.Struct], example: dict[str, Any]) -> dict[str, Any]:
    """The body holds a list of records of this kind under `name`."""
    _, components = msgspec.json.schema_components([kind])
    elements = {"type": "array", "items": components[kind.__name__], "maxItems": MAX_BATCH}
    schema = {"type": "object", "required": [name], "properties": {name: elements}}
    return _request_body({**schema, "example": {name: [example]}})


def _request_body(schema: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}
