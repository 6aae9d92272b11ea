"""Rankings over HTTP: shapes, orders, odd users and items, and every wrong body."""

import json
import socket
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.metrics import Readings
from serving import routes, scoring
from serving.engine import Served
from serving.messages import RankAnswer


def scores(answer):
    return [scored["score"] for scored in answer["items"]]


def items(answer):
    return [scored["item"] for scored in answer["items"]]


def test_candidates_come_back_best_first_with_every_head(site):
    answer = site.client.rank("u1", ["i1", "i2", "i3"], request="r-1")
    RankAnswer.model_validate_json(json.dumps(answer))
    assert (answer["request_id"], answer["version"]) == ("r-1", 1)
    assert sorted(items(answer)) == ["i1", "i2", "i3"]
    assert scores(answer) == sorted(scores(answer), reverse=True)
    assert set(answer["items"][0]["actions"]) == {"click", "view", "like", "buy", "hide"}


def test_a_header_says_what_the_engine_took(site):
    answer = site.http.post("/v1/rank", json={"user": "u1", "items": ["i1"]})
    name, _, milliseconds = answer.headers["Server-Timing"].partition(";dur=")
    assert name == "engine"
    assert 0 < float(milliseconds) <= answer.json()["took_ms"]


def test_the_order_of_the_candidates_does_not_matter(site):
    forth = site.client.rank("u1", ["i1", "i2", "i3"], at=1.0)
    back = site.client.rank("u1", ["i3", "i2", "i1"], at=1.0)
    assert items(forth) == items(back)
    assert scores(forth) == scores(back)


def test_one_candidate_alone_scores_as_in_company(site):
    together = {
        s["item"]: s["score"] for s in site.client.rank("u1", ["i1", "i2"], at=1.0)["items"]
    }
    alone = site.client.rank("u1", ["i2"], at=1.0)
    assert scores(alone) == [together["i2"]]


def test_n_cuts_the_list_after_sorting(site):
    full = site.client.rank("u1", ["i1", "i2", "i3", "i4"], at=1.0)
    assert items(site.client.rank("u1", ["i1", "i2", "i3", "i4"], at=1.0, n=2)) == items(full)[:2]


def test_repeated_candidates_come_back_as_often(site):
    answer = site.client.rank("u1", ["i1", "i2", "i1"])
    assert sorted(items(answer)) == ["i1", "i1", "i2"]
    twins = [s["score"] for s in answer["items"] if s["item"] == "i1"]
    assert twins[0] == pytest.approx(twins[1], abs=2e-5)


def test_unknown_users_and_items_are_normal_and_equal_scores_keep_their_order(site):
    answer = site.client.rank("nobody", ["new-b", "new-a", 77])
    assert items(answer) == ["new-b", "new-a", 77]
    assert len(set(scores(answer))) == 1


def test_integers_and_strings_are_different_ids(site):
    assert items(site.client.rank(7, [7, "7"])) in ([7, "7"], ["7", 7])


def test_a_request_id_is_made_when_none_is_sent(site):
    made = [site.client.rank("u1", ["i1"])["request_id"] for _ in range(2)]
    assert len(set(made)) == 2


def test_a_version_without_action_heads_answers_null(publish, run_site):
    publish(1, heads=False)
    with run_site() as site:
        site.until_ready()
        answer = site.client.rank("u1", ["i1", "i2"])
        assert [scored["actions"] for scored in answer["items"]] == [None, None]
        assert all(scored["score"] == scored["next_item"] for scored in answer["items"])


def test_recommend_finds_the_best_of_the_catalogue(site):
    answer = site.client.recommend("u1", n=40, at=1.0)
    ranked = site.client.rank("u1", items(answer), at=1.0)
    assert len(set(items(answer))) == 40
    assert items(ranked) == items(answer)
    assert items(site.client.recommend("u1", n=3, at=1.0)) == items(answer)[:3]


def test_recommend_leaves_out_what_it_is_told_to(site):
    best = items(site.client.recommend("u1", n=5, at=1.0))
    rest = items(site.client.recommend("u1", n=5, at=1.0, exclude=[*best[:2], "unknown"]))
    assert rest[:3] == best[2:]


def test_recommend_returns_fewer_when_the_catalogue_ends(publish, run_site):
    publish(1, items=["only"])
    with run_site() as site:
        site.until_ready()
        assert items(site.client.recommend("u1", n=10)) == ["only"]
        assert items(site.client.recommend("u1", n=10, exclude=["only"])) == []


def test_nothing_is_ranked_before_a_version_is_there(publish, run_site):
    with run_site() as site:
        early = site.http.post("/v1/rank", json={"user": "u1", "items": ["i1"]})
        assert early.status_code == 503
        assert early.json()["type"] == "urn:freshet:problem:not-ready"
        assert early.headers["retry-after"] == "1"
        assert site.http.get("/health/ready").status_code == 503
        assert site.http.get("/health/live").status_code == 200
        publish(1)
        site.until_ready()
        assert site.client.rank("u1", ["i1"])["version"] == 1


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "status", "kind", "field"),
    [
        (b"", 400, "not-json", None),
        (b"{", 400, "not-json", None),
        (b'{"user": 1, "items": []}', 422, "invalid-field", "items"),
        (b'{"user": 1, "items": [1], "at": NaN}', 422, "invalid-field", "at"),
        (b'{"user": "", "items": [1]}', 422, "invalid-field", "user"),
        (b'{"user": 1, "items": [true]}', 422, "invalid-field", "items[0]"),
        ('{"user": 1, "items": [1, "%s"]}' % ("é" * 200), 422, "invalid-field", "items[1]"),
        ('{"user": "%s", "items": [1]}' % ("é" * 200), 422, "invalid-field", "user"),
        (b'{"user": 1, "items": [%s]}' % b",".join([b"1"] * 4097), 422, "invalid-field", "items"),
    ],
)
def test_a_wrong_body_is_a_problem_document(site, body, status, kind, field):
    response = site.http.post("/v1/rank", content=body, headers=JSON)
    problem = response.json()
    assert response.status_code == problem["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert (problem["type"], problem.get("field")) == (f"urn:freshet:problem:{kind}", field)


def test_another_content_type_is_415(site):
    for headers in ({}, {"Content-Type": "text/plain"}):
        response = site.http.post("/v1/rank", content=b"{}", headers=headers)
        assert response.status_code == 415
    named = {"Content-Type": "Application/JSON; charset=utf-8"}
    body = b'{"user": 1, "items": [1]}'
    assert site.http.post("/v1/rank", content=body, headers=named).status_code == 200


def test_unknown_paths_are_404_and_wrong_methods_405(site):
    assert site.http.get("/v2/rank").json()["type"] == "urn:freshet:problem:not-found"
    wrong = site.http.get("/v1/rank")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["type"] == "urn:freshet:problem:method-not-allowed"


def test_a_body_over_the_limit_is_413_however_it_is_sent(publish, run_site):
    publish(1)
    with run_site(serving={"body_limit_bytes": 2048}) as site:
        whole = site.http.post("/v1/rank", content=b" " * 2049, headers=JSON)
        chunked = site.http.post("/v1/rank", content=iter([b" " * 1024] * 3), headers=JSON)
        for response in (whole, chunked):
            assert response.status_code == 413
            assert response.json()["type"] == "urn:freshet:problem:too-large"
        fits = site.http.post("/v1/rank", content=iter([b" " * 1024] * 2), headers=JSON)
        assert fits.status_code == 400


def test_a_client_that_leaves_in_the_middle_of_a_body_harms_nobody(site):
    with socket.create_connection((site.http.base_url.host, site.http.base_url.port)) as leaver:
        leaver.sendall(
            b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b'Content-Length: 100\r\n\r\n{"user": 1'
        )

    def noticed() -> bool:
        counted = Readings(site.http.get("/metrics").text)
        return counted.get("requests_total", route="/v1/rank", status="400") == 1

    site.until(noticed)
    assert site.client.rank("u1", ["i1"])["version"] == 1


def test_a_client_that_leaves_before_its_answer_costs_the_engine_nothing(site, monkeypatch):
    ranked, hold = [], threading.Event()
    monkeypatch.setattr(scoring.Rank, "together", staticmethod(ranked.append))
    busy = threading.Thread(target=lambda: site.core.engine.do(lambda _: hold.wait(30)))
    busy.start()
    with site.connect() as leaver:
        body = b'{"user": 1, "items": [2]}'
        leaver.sendall(
            b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        site.until(lambda: site.core.engine.waiting == 1)

    def noticed() -> bool:
        counted = Readings(site.http.get("/metrics").text)
        return counted.get("requests_total", route="/v1/rank", status="400") == 1

    site.until(noticed)
    hold.set()
    busy.join()
    site.core.engine.do(lambda _: None)
    assert ranked == []


def test_requests_at_once_all_get_their_own_answer(site):
    answers = {}

    def ask(number: int) -> None:
        answers[number] = site.client.rank(f"u{number}", [f"i{number}"], request=f"r{number}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, answer in answers.items():
        assert (answer["request_id"], items(answer)) == (f"r{number}", [f"i{number}"])
    assert len(answers) == 16


def test_a_fault_of_the_server_is_a_problem_document_too(site):
    def break_it(tables) -> None:
        tables.served = Served(None, tables.served.manifest)

    site.core.engine.do(break_it)
    response = site.http.post("/v1/rank", json={"user": 1, "items": [1]})
    assert response.status_code == 500
    assert response.json()["type"] == "urn:freshet:problem:internal"
    assert "NoneType" not in response.text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
fields = st.sampled_from(["user", "items", "at", "n", "request", "context", "exclude", "actions"])
bodies = st.dictionaries(fields, json_values).map(lambda value: json.dumps(value).encode())
paths = st.sampled_from(["/v1/rank", "/v1/recommend", "/v1/actions", "/v1/impressions"])


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(path=paths, body=bodies | st.binary(max_size=60))
def test_no_body_makes_the_server_fail(site, path, body):
    response = site.http.post(path, content=body, headers=JSON)
    assert response.status_code in (200, 202, 400, 422)


@pytest.mark.parametrize(
    ("name", "header"),
    [("r-5c1", "r-5c1"), ("50%/a b", "50%/a%20b"), ("\x1f", "%1F"), ("\x00\x7f", "%00%7F"),
     ("a\r\nSet-Cookie: b=c", "a%0D%0ASet-Cookie:%20b=c"), ("Bücher", "B%C3%BCcher")],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/rank", "/v1/recommend"])
def test_a_request_id_of_any_characters_is_answered_and_named(site, path, name, header):
    body = {"user": "u1", "request": name, **({"items": ["i1"]} if path == "/v1/rank" else {})}
    answer = site.http.post(path, json=body)
    assert (answer.status_code, answer.json()["request_id"]) == (200, name)
    assert answer.headers["X-Request-Id"] == header
    assert "Set-Cookie" not in answer.headers


def test_a_failure_names_its_request_once(site, monkeypatch):
    def fails(*_):
        raise ValueError("made up")

    monkeypatch.setattr(routes, "answer", fails)
    answer = site.http.post("/v1/rank", json={"user": "u1", "items": ["i1"], "request": "日"})
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:freshet:problem:internal")
    assert answer.headers.get_list("X-Request-Id") == ["%E6%97%A5"]
