"""docs/api.md names every route, field, status, problem type and setting of the server."""

from http import HTTPStatus
from pathlib import Path

import pytest

from serving.batches import PostedAction, PostedImpression, PostedItem
from serving.messages import (
    HeldVersion,
    PinAnswer,
    RankAnswer,
    RankRequest,
    RecommendRequest,
    RejectedRecord,
    ScoredItem,
    ServedVersion,
    VersionsAnswer,
)
from serving.problems import TITLES, TYPE_PREFIX
from serving.settings import ServingSettings

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


def test_every_route_is_documented_with_its_statuses(site):
    paths = site.http.get("/openapi.json").json()["paths"]
    assert len(paths) == 11
    for path, methods in paths.items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in TEXT
            for status in operation["responses"]:
                assert f" {status} " in TEXT or f"**{status}" in TEXT, status


def test_the_interactive_page_is_there(site):
    assert site.http.get("/docs").status_code == HTTPStatus.OK


@pytest.mark.parametrize(
    "kind", [RankRequest, RecommendRequest, RankAnswer, ScoredItem, ServedVersion, VersionsAnswer,
             HeldVersion, PinAnswer, RejectedRecord, ServingSettings]
)  # fmt: skip
def test_every_field_is_documented(kind):
    for name in kind.model_fields:
        assert f"`{name}`" in TEXT or f'"{name}"' in TEXT or f".{name}`" in TEXT, name


@pytest.mark.parametrize("kind", [PostedAction, PostedImpression, PostedItem])
def test_every_field_of_a_record_is_documented(kind):
    for name in kind.__struct_fields__:
        assert f"`{name}`" in TEXT, name


def test_every_problem_type_and_default_is_documented():
    assert TYPE_PREFIX in TEXT
    for kind in TITLES:
        assert f"| `{kind}` |" in TEXT
    for name, field in ServingSettings.model_fields.items():
        assert f"| `{name}` | {str(field.default).lower()} |" in TEXT
