"""`?explain=true` says what a ranking rests on, to whom it may."""

import json
import math

import pytest

from serving.messages import RankAnswer


def explained(site, user="u1", path="/v1/rank", **body):
    answer = site.http.post(f"{path}?explain=true", json={"user": user, **body})
    assert answer.status_code == 200, answer.text
    RankAnswer.model_validate_json(answer.text)
    return answer.json()


def test_an_answer_says_what_it_rests_on(site, clicks):
    site.client.act(clicks("u1", ["i3", "i5", "i7", "i3", "i8", "i9", "unheard-of"]))
    site.until(lambda: explained(site, items=["i1"])["explanation"]["history"] == 7)
    answer = explained(site, items=["i1", "i2", "i3"], n=2)
    whole = answer["explanation"]
    assert (whole["version"], whole["reading"], whole["visible"]) == (1, "hit", 7)
    assert (whole["rows"], whole["dense"]) == ("int8", "fp32")
    for item in answer["items"]:
        why = item["explanation"]
        for name, logit in why["logits"].items():
            assert item["actions"][name] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-5)
        shares = [event["share"] for event in why["events"]]
        assert len(shares) == 5
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1 + 1e-5
        for event in why["events"]:
            assert event["item"] in {"i3", "i5", "i7", "i8", "i9", None}
            assert event["action"] == "click"


def test_scores_are_those_of_an_answer_without_reasons(site, clicks):
    site.client.act(clicks("u2", ["i3", "i5"]))
    body = {"user": "u2", "items": ["i1", "i2", "i3"], "at": 2_000_000_000.0}
    site.until(lambda: explained(site, **body)["explanation"]["history"] == 2)
    plain, told = site.http.post("/v1/rank", json=body).json(), explained(site, **body)
    assert "explanation" not in json.dumps(plain)
    for a, b in zip(plain["items"], told["items"], strict=True):
        assert (a["item"], a["score"]) == (b["item"], b["score"])


def test_somebody_new_and_recommendations_are_explained_too(site):
    answer = explained(site, "nobody", items=["i1", "new"])
    assert answer["explanation"]["history"] == 0
    assert [item["explanation"]["events"] for item in answer["items"]] == [[], []]
    found = explained(site, "somebody", "/v1/recommend", n=3)
    assert found["explanation"]["reading"] == "read"
    assert explained(site, "somebody", "/v1/recommend", n=3)["explanation"]["reading"] == "hit"
    assert all(item["explanation"]["logits"] for item in found["items"])


def test_every_request_counts_once_by_what_had_to_be_read(site):
    counted = site.server.metrics.readings_total
    before = {name: counted.labels(name)._value.get() for name in ("hit", "extended", "read")}
    explained(site, "new", "/v1/recommend", n=3)
    explained(site, "new", items=["i1"])
    site.client.recommend("new", 3)
    found = {name: counted.labels(name)._value.get() - before[name] for name in before}
    assert found == {"hit": 2, "extended": 0, "read": 1}


def test_what_is_neither_true_nor_false_is_an_invalid_field(site):
    answer = site.http.post("/v1/rank?explain=1", json={"user": "u", "items": ["i1"]})
    assert (answer.status_code, answer.json()["field"]) == (422, "explain")
