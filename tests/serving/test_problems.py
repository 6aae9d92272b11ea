"""Wrong bodies are explained in the words of the API, naming the field."""

import json

import pytest
from pydantic import BaseModel, ValidationError

from serving.messages import RankRequest, RecommendRequest
from serving.problems import Problem, explain

GOOD = {"user": "u1", "items": ["a", 7]}


def refused(kind: type[BaseModel], body: str) -> Problem:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate_json(body)
    return explain(caught.value)


@pytest.mark.parametrize(
    ("changed", "field", "detail"),
    [
        ({"items": []}, "items", "must hold at least 1 element(s), not 0"),
        ({"items": ["a"] * 4097}, "items", "must hold at most 4096 elements"),
        ({"items": "a"}, "items", "must be a list"),
        ({"items": ["a", "b", 1.5]}, "items[2]", "must be a string or an integer"),
        ({"items": ["a", ""]}, "items[1]", "must not be empty"),
        ({"items": ["a", None]}, "items[1]", "must be a string or an integer"),
        ({"items": [2**63]}, "items[0]", "must be below 9223372036854775808"),
        ({"items": [-(2**63)]}, "items[0]", "must be above -9223372036854775808"),
        ({"user": True}, "user", "must be a string or an integer"),
        ({"user": "x" * 257}, "user", "must be at most 256 characters long"),
        ({"at": "1"}, "at", "must be a number"),
        ({"at": -1}, "at", "must be at least 0.0"),
        ({"at": 1e13}, "at", "must be below 1099511627776.0"),
        ({"n": 0}, "n", "must be at least 1"),
        ({"n": 1.5}, "n", "must be an integer"),
        ({"request": ""}, "request", "must not be empty"),
        ({"context": {"device": [1]}}, "context.device", "must be a string or an integer or"),
        ({"colour": "red"}, "colour", "is not a known field"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_must_be(changed, field, detail):
    problem = refused(RankRequest, json.dumps(GOOD | changed))
    assert (problem.status, problem.kind, problem.field) == (422, "invalid-field", field)
    assert problem.detail.startswith(detail)


def test_a_missing_field_is_named():
    problem = refused(RankRequest, '{"user": 1}')
    assert (problem.field, problem.detail) == ("items", "is missing")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(number):
    problem = refused(RankRequest, f'{{"user": 1, "items": [1], "at": {number}}}')
    assert (problem.field, problem.detail) == ("at", "must be a finite number")


@pytest.mark.parametrize(
    "body", ["", "{", "nonsense", '{"user": "\\ud800", "items": [1]}', "[" * 5000]
)
def test_what_is_not_json_is_400(body):
    problem = refused(RankRequest, body)
    assert (problem.status, problem.kind) == (400, "not-json")


def test_json_that_is_no_object_is_refused():
    assert refused(RankRequest, "[]").detail == "must be an object"


def test_recommend_limits_n_and_wants_a_real_boolean():
    assert refused(RecommendRequest, '{"user": 1, "n": 1001}').detail == "must be at most 1000"
    assert refused(RecommendRequest, '{"user": 1, "exclude_seen": 1}').field == "exclude_seen"


def test_a_problem_document_leaves_out_a_field_it_does_not_have():
    response = refused(RankRequest, "{").response()
    document = json.loads(bytes(response.body))
    assert response.headers["content-type"] == "application/problem+json"
    assert document["type"] == "urn:freshet:problem:not-json"
    assert "field" not in document
