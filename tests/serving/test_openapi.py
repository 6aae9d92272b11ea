"""docs/openapi.json is what the server says of itself, and says it whole."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.document import document
from serving.openapi import ANYWHERE
from serving.problems import MEDIA_TYPE

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"
AGAIN = "docs/openapi.json is out of date: python -m serving.document > docs/openapi.json"


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    committed: dict[str, Any] = json.loads(COMMITTED.read_text())
    return committed


def operations(described: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def test_the_committed_document_is_what_the_application_says(described):
    assert document() == described, AGAIN


def test_a_server_answers_with_the_committed_document(site, described):
    assert site.http.get("/openapi.json").json() == described, AGAIN


def test_every_reference_leads_somewhere_and_every_schema_is_used(described):
    text = json.dumps(described)
    named = {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}
    used = {part.split('"')[0] for part in text.split('"$ref": "')[1:]}
    assert used == named


def test_every_error_is_a_problem_document_and_every_answer_has_a_schema(described):
    for where, operation in operations(described):
        assert set(map(str, ANYWHERE)) <= set(operation["responses"]), where
        for status, answer in operation["responses"].items():
            [(media, content)] = answer["content"].items()
            assert content["schema"], (where, status)
            assert (media == MEDIA_TYPE) == (int(status) >= 400), (where, status)


def test_every_answer_says_which_headers_it_carries(described):
    own = {"401": "WWW-Authenticate", "429": "Retry-After", "503": "Retry-After"}
    for where, operation in operations(described):
        for status, answer in operation["responses"].items():
            expected = {"X-Request-Id", own.get(status, "X-Request-Id")}
            if status == "200" and where in ("post /v1/rank", "post /v1/recommend"):
                expected.add("Server-Timing")
            assert set(answer["headers"]) == expected, (where, status)


def test_rankings_are_timed_as_the_document_says(site, described):
    for path, more in (("/v1/rank", {"items": ["i1"]}), ("/v1/recommend", {})):
        answers = described["paths"][path]["post"]["responses"]
        schema = answers["200"]["headers"]["Server-Timing"]["schema"]
        answer = site.http.post(path, json={"user": "u1", **more})
        assert re.search(schema["pattern"], answer.headers["Server-Timing"])


def test_every_request_body_has_an_example_and_a_name(described):
    schemas = described["components"]["schemas"]
    bodies = [one["requestBody"] for _, one in operations(described) if "requestBody" in one]
    assert len(bodies) == 5
    for body in bodies:
        schema = schemas[body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
        examples = [one for one in schema["properties"].values() if "examples" in one]
        assert "example" in schema or examples


def test_every_operation_has_a_short_name_of_its_own(described):
    names = [operation["operationId"] for _, operation in operations(described)]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and len(name) < 12 for name in names)


def test_what_is_over_its_rate_or_not_ready_says_when_to_come_back(run_site):
    with run_site() as site:  # no version yet
        answer = site.http.get("/health/ready")
        assert (answer.status_code, int(answer.headers["Retry-After"])) == (503, 1)
        site.server.drain()
        answer = site.http.get("/health/ready")
        assert "shutting down" in answer.json()["detail"]
        assert int(answer.headers["Retry-After"]) == 1
