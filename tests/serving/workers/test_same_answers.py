"""One process or three: the same answers to the same requests, word for word."""

import json

import httpx

from tests.serving.test_exploration import BESIDE

AT = 1_732_096_900.5
RANK = {"user": "u1", "items": ["i3", 7, "i1", "i9", "nobody", "i3"], "at": AT}
RECOMMEND = {"user": "u1", "n": 4, "at": AT, "request": "r-pages"}
POSTED = [
    ("/v1/rank", RANK),
    ("/v1/rank?explain=true", RANK),
    ("/v1/rank", {**RANK, "n": 2, "request": "mine"}),
    ("/v1/rank", {"user": 5, "items": [1, 2], "at": AT}),
    ("/v1/recommend", RECOMMEND),
    ("/v1/recommend", {**RECOMMEND, "page": 1}),
    ("/v1/recommend?explain=true", {**RECOMMEND, "request": "r-2", "diversity": 0.5}),
    ("/v1/rank?explain=true", {**RANK, "n": 3, "request": "mine", "explore": 0.5}),
    ("/v1/recommend", {**RECOMMEND, "request": "r-3", "explore": 1}),
    ("/v1/recommend", {**RECOMMEND, "explore": 2}),
    ("/v1/recommend", {"user": "u1", "at": AT, "exclude": ["i9"], "exclude_seen": False}),
    ("/v1/recommend", {"user": "u1", "at": AT, "categories": ["news"]}),
    ("/v1/recommend", {"user": "u1", "at": AT, "features": {"language": "en"}}),
    ("/v1/recommend", {"user": "u1", "at": AT, "features": {"size": 1}}),
    ("/v1/rank", {**RANK, "items": []}),
    ("/v1/rank", {**RANK, "user": "x" * 300}),
    ("/v1/rank?explain=maybe", RANK),
    ("/v1/rank", [1]),
    ("/v1/nothing", {}),
    ("/v1/versions/99/activate", None),
    ("/v1/versions/1/activate", None),
    ("/v1/versions/unpin", None),
    ("/v1/actions", {"actions": [{"user": "u9", "item": "i1", "action": "fly"}]}),
    ("/v1/actions", {"actions": []}),
]
GOT = ["/v1/rank", "/v1/versions", "/health/live", "/health/ready", "/openapi.json", "/nothing"]
PASSING = ("took_ms", "version_age_seconds", "age_seconds", "request_id", "generation")
"""Fields that differ between two requests to the same server."""


def told(answer: httpx.Response) -> tuple:
    """An answer without what is true of its moment alone."""
    text = json.dumps(answer.json(), sort_keys=True)
    document = json.loads(text, object_hook=_lasting)
    headers = {"content-type", "retry-after", "allow", "cache-control", "x-content-type-options"}
    return answer.status_code, document, {h: answer.headers.get(h) for h in headers}


def _lasting(fields: dict) -> dict:
    return {name: value for name, value in fields.items() if name not in PASSING}


def test_all_of_it(start, publish, clicks):
    publish(1, beside=BESIDE)
    items = [
        {"item": "i4", "categories": ["news"], "features": {"language": "en"}},
        {"item": "new", "categories": ["news"]},
        {"item": "i9", "hidden": True},
    ]
    found = []
    for workers in (0, 2):
        settings = {"item_filters": ["language"], "http_workers": workers}
        with start(workers, serving=settings) as several, several.open() as http:
            if not workers:
                several.until(
                    lambda: http.post("/v1/items", json={"items": items}).status_code == 202
                )
                body = {"actions": clicks("u1", ["i3", "i5"])}
                assert http.post("/v1/actions", json=body).json()["accepted"] == 2

            def restored(http=http) -> bool:
                seen = http.post("/v1/rank?explain=true", json={**RANK, "user": "u1", "at": None})
                hidden = http.post("/v1/rank", json={"user": 1, "items": ["i9"]}).json()
                return seen.json()["explanation"]["history"] == 2 and not hidden["items"]

            several.until(restored)
            found.append(
                [(path, told(http.post(path, json=body))) for path, body in POSTED]
                + [(path, told(http.get(path))) for path in GOT]
            )
    statuses = {answer[0] for _, answer in found[0]}
    assert statuses == {200, 202, 404, 405, 422}
    for one, several_said in zip(*found, strict=True):
        assert one == several_said
