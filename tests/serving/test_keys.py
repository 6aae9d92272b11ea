"""Who may ask for what: keys, scopes, a file that changes under the server, and what is logged."""

import json
import logging
import os
import statistics
import time
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import chain

import pytest

from service.client import API_KEY, Client, RequestError
from service.commands import key_file
from service.errors import SettingsError
from service.keys import SCOPES, new_key
from service.logs import JsonFormatter
from service.metrics import Readings, ServingMetrics
from serving import keys
from serving.guard import require_keys
from serving.keys import Keyring
from serving.limits import LimitSettings

OPEN = {"/health/live", "/health/ready", "/metrics"}
NEEDED = {
    "/v1/rank": "read", "/v1/recommend": "read", "/v1/versions": "read",
    "/v1/actions": "write", "/v1/impressions": "write", "/v1/items": "write",
    "/v1/versions/{number}/activate": "admin", "/v1/versions/unpin": "admin",
}  # fmt: skip
RANK = {"user": "u1", "items": ["i1"]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.toml"


@pytest.fixture
def token(path):
    """Put a key into the file; its token."""

    def make(*scopes, **more):
        made = new_key(more.pop("name", "test"), scopes, **more)
        key_file.add(path, made)
        return made.token

    return make


@pytest.fixture
def guarded(publish, run_site, token, monkeypatch):
    """A ready server that needs keys and looks at their file often, and the token of a reader."""
    monkeypatch.setattr(keys, "LOOK_SECONDS", 0.05)
    publish(1)
    reader = token("read", name="reader")
    with run_site(serving={"keys": "keys.toml"}) as site:
        site.until_ready()
        yield site, reader


def key(token):
    return {"X-API-Key": token}


def refused(answer, status, kind):
    document = answer.json()
    assert (answer.status_code, document["type"]) == (status, f"urn:freshet:problem:{kind}")
    return document["detail"]


def wait_for_a_look():
    time.sleep(keys.LOOK_SECONDS + 0.02)


def test_every_route_is_open_on_purpose_or_needs_one_scope(guarded):
    site, _ = guarded
    described = site.http.get("/openapi.json").json()
    schemes = described["components"]["securitySchemes"]
    assert schemes["APIKeyHeader"]["name"] == "X-API-Key"
    for path, methods in described["paths"].items():
        for operation in methods.values():
            listed = [scopes for one in operation.get("security", []) for scopes in one.values()]
            needed = set(chain.from_iterable(listed))
            assert needed == ({NEEDED[path]} if path not in OPEN else set())


def test_reasons_need_a_scope_of_their_own(guarded, token):
    site, _ = guarded
    plain, both = key(token("read")), key(token("read", "explain"))
    wait_for_a_look()
    for path, body in (
        ("/v1/rank", {"user": "u1", "items": ["i1"]}),
        ("/v1/recommend", {"user": "u1"}),
    ):
        assert site.http.post(path, json=body, headers=plain).status_code == 200
        answer = site.http.post(f"{path}?explain=true", json=body, headers=plain)
        assert refused(answer, 403, "forbidden").startswith("this needs a key with scope explain")
        answer = site.http.post(f"{path}?explain=true", json=body, headers=both)
        assert answer.json()["explanation"]["version"] == 1


@pytest.mark.parametrize("scope", SCOPES)
def test_each_scope_opens_its_own_routes_only(guarded, token, scope):
    site, _ = guarded
    headers = key(token(scope))
    wait_for_a_look()
    for path, needed in NEEDED.items():
        url = path.replace("{number}", "1")
        answer = site.http.request("GET" if url == "/v1/versions" else "POST", url, headers=headers)
        if answer.status_code == 404:  # a route that this release does not have
            continue
        if needed == scope:
            assert answer.status_code not in (401, 403)
        else:
            detail = refused(answer, 403, "forbidden")
            assert detail == f"this needs a key with scope {needed}; this key has {scope}"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        key(""),
        key("fk_00000000_" + "0" * 64),
        key("nonsense"),
        key("\xe9\xff".encode("latin-1")),
        {"Authorization": "Basic dTpw"},
        {"Authorization": "Bearer nonsense"},
    ],
)
def test_without_a_known_key_the_answer_is_401_whatever_the_body(guarded, headers):
    site, _ = guarded
    for content in (b"", b"{", b"x" * 100_000):
        answer = site.http.post("/v1/rank", content=content, headers=headers)
        detail = refused(answer, 401, "unauthorized")
        assert "freshet keys new" in detail
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="freshet"'


def test_a_key_of_another_secret_is_unknown(guarded):
    site, reader = guarded
    wrong = reader[:-1] + ("0" if reader[-1] != "0" else "1")
    assert refused(site.http.post("/v1/rank", json=RANK, headers=key(wrong)), 401, "unauthorized")
    assert site.http.post("/v1/rank", json=RANK, headers=key(reader)).is_success


def test_the_key_may_come_as_a_bearer_token(guarded):
    site, reader = guarded
    bearer = {"Authorization": f"Bearer {reader}"}
    assert site.http.post("/v1/rank", json=RANK, headers=bearer).is_success


def test_the_body_is_not_awaited_before_the_key_is_known(guarded):
    site, _ = guarded
    head = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with site.connect() as connection:
        connection.sendall(head + b"Content-Length: 1000000\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 401")


def test_health_and_the_description_need_no_key_and_metrics_can(guarded, run_site, token):
    site, _ = guarded
    for url in ("/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"):
        assert site.http.get(url).is_success


def test_metrics_can_need_a_key(publish, run_site, token):
    publish(1)
    reader = token("read")
    with run_site(serving={"keys": "keys.toml", "open_metrics": False}) as site:
        refused(site.http.get("/metrics"), 401, "unauthorized")
        assert site.http.get("/metrics", headers={"Authorization": f"Bearer {reader}"}).is_success


def test_keys_come_and_go_without_a_restart(guarded, path, token):
    site, reader = guarded
    writer = token("write")
    key_file.remove(path, "reader")
    wait_for_a_look()
    assert site.http.post("/v1/actions", json={}, headers=key(writer)).status_code == 422
    refused(site.http.post("/v1/rank", json=RANK, headers=key(reader)), 401, "unauthorized")
    read = Readings(site.http.get("/metrics").text)
    assert (read.get("keys"), read.get("key_reloads_total", outcome="loaded")) == (1, 1)


def test_a_file_that_breaks_or_goes_away_keeps_the_old_keys(guarded, path, caplog):
    site, reader = guarded
    good = path.read_text()
    for round_, broken in enumerate((lambda: path.write_text("[keys"), path.unlink), 1):
        broken()
        wait_for_a_look()
        for _ in range(3):
            assert site.http.post("/v1/rank", json=RANK, headers=key(reader)).is_success
        read = Readings(site.http.get("/metrics").text)
        assert read.get("key_reloads_total", outcome="failed") == round_
    assert "the 1 keys known before stay" in caplog.text
    path.write_text(good)
    wait_for_a_look()
    assert site.http.post("/v1/rank", json=RANK, headers=key(reader)).is_success
    read = Readings(site.http.get("/metrics").text)
    assert read.get("key_reloads_total", outcome="loaded") == 1


def test_a_file_swapped_behind_a_link_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "LOOK_SECONDS", 0.0)
    made = [new_key("web", ("read",)) for _ in range(2)]
    for number, one in enumerate(made):
        key_file.add(tmp_path / str(number) / "keys.toml", one)
    link = tmp_path / "keys.toml"
    link.symlink_to(tmp_path / "0" / "keys.toml")
    keyring = Keyring(link, LimitSettings(), ServingMetrics())
    assert keyring.find(made[0].token)
    link.unlink()
    link.symlink_to(tmp_path / "1" / "keys.toml")
    assert keyring.find(made[1].token)
    assert not keyring.find(made[0].token)


def test_the_file_is_looked_at_once_a_second_at_most(path, token):
    token("read")
    keyring = Keyring(path, LimitSettings(), ServingMetrics())
    late = token("read")
    began = time.monotonic()
    while not keyring.find(late):
        assert time.monotonic() - began < 5
    assert time.monotonic() - began > 0.8


def test_an_expired_key_is_refused_and_says_so(publish, run_site, token):
    publish(1)
    over = token("read", expires=datetime(2026, 1, 1, tzinfo=UTC))
    with run_site(serving={"keys": "keys.toml"}) as site:
        answer = site.http.get("/v1/versions", headers=key(over))
        assert refused(answer, 401, "unauthorized").startswith("the key has expired")
        read = Readings(site.http.get("/metrics").text)
        assert read.get("requests_denied_total", reason="expired") == 1


def test_a_lookup_takes_as_long_for_an_id_that_no_key_has(tmp_path):
    made = new_key("web", ("read",))
    key_file.add(tmp_path / "keys.toml", made)
    keyring = Keyring(tmp_path / "keys.toml", LimitSettings(), ServingMetrics())
    wrong = {made.id: [], "ffffffff": []}
    for _ in range(3000):
        for key_id, times in wrong.items():
            began = time.perf_counter()
            assert keyring.find(f"fk_{key_id}_{'0' * 64}") is None
            times.append(time.perf_counter() - began)
    known, unknown = (statistics.median(times) for times in wrong.values())
    assert 0.75 < known / unknown < 1.33


def test_neither_log_nor_answer_nor_metric_ever_holds_a_key(guarded, token, caplog, monkeypatch):
    site, reader = guarded
    caplog.set_level(logging.DEBUG)
    wrong = "fk_12345678_" + "ab" * 32
    told = []
    for secret in (reader, wrong):
        for headers in (key(secret), {"Authorization": f"Bearer {secret}"}):
            for url, body in (("/v1/rank", RANK), ("/v1/actions", {}), ("/nowhere", {})):
                told.append(site.http.post(url, json=body, headers=headers).text)
    monkeypatch.setattr(site.core.engine, "ask", None)
    site.http.post("/v1/rank", json=RANK, headers=key(reader))  # an error with its trace
    told.append(site.http.get("/metrics").text)
    lines = "\n".join(map(JsonFormatter().format, caplog.records))
    assert "TypeError" in lines
    for secret in (reader, wrong):
        for part in (secret, secret.split("_")[2]):
            assert part not in lines + "".join(told)
    logged = [json.loads(line) for line in lines.splitlines()]
    assert reader.split("_")[1] in {line.get("key") for line in logged}


def test_a_server_without_keys_is_open_but_not_for_pages_of_other_sites(site):
    assert site.http.post("/v1/versions/unpin").is_success
    host = site.http.base_url.netloc.decode()
    assert site.http.post("/v1/versions/unpin", headers={"Origin": f"http://{host}"}).is_success
    for origin in ("http://evil.example", "null", "http://[", "http://"):
        answer = site.http.post("/v1/versions/unpin", headers={"Origin": origin})
        refused(answer, HTTPStatus.FORBIDDEN, "forbidden")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "freshet.example"])
def test_a_host_that_others_reach_needs_keys_or_a_word(host):
    with pytest.raises(SettingsError, match=f"--host {host} is open to other machines"):
        require_keys(host, keyed=False, open_allowed=False)
    require_keys(host, keyed=True, open_allowed=False)
    require_keys(host, keyed=False, open_allowed=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_a_loopback_host_may_be_open(host):
    require_keys(host, keyed=False, open_allowed=False)


def test_a_key_file_that_is_named_must_be_there(run_site):
    with (
        pytest.raises(SettingsError, match=r"keys\.toml does not exist; `freshet keys new"),
        run_site(serving={"keys": "keys.toml"}),
    ):
        pass


def test_the_client_sends_its_key_or_that_of_the_environment(guarded, monkeypatch):
    site, reader = guarded
    url = str(site.http.base_url)
    with Client(url, api_key=reader) as client:
        assert client.rank("u1", ["i1"])["version"] == 1
    with (
        Client(url) as client,
        pytest.raises(RequestError, match="401 A key is needed: the key is missing"),
    ):
        client.rank("u1", ["i1"])
    monkeypatch.setitem(os.environ, API_KEY, f"{reader}\n")
    with Client(url) as client:
        assert client.rank("u1", ["i1"])["version"] == 1
    with Client(url, api_key="") as client, pytest.raises(RequestError, match="401"):
        client.rank("u1", ["i1"])


def test_rates_of_a_key_are_429_with_a_time_to_come_back(publish, run_site, token):
    publish(1)
    slow = token("read", "write", rankings_per_second=0.1, records_per_second=0.2)
    free = token("read", "write")
    limits = {"rankings_per_second": 1000.0, "burst_seconds": 10.0}
    with run_site(serving={"keys": "keys.toml"}, limits=limits) as site:
        site.until_ready()
        rankings = [site.http.post("/v1/rank", json=RANK, headers=key(slow)) for _ in range(3)]
        assert [one.status_code for one in rankings] == [200, 429, 429]
        refused(rankings[1], 429, "rate-limited")
        assert 1 <= int(rankings[1].headers["Retry-After"]) <= 10
        batch = {"actions": [{"user": "u1", "item": "i1", "action": "click"}]}
        posted = [site.http.post("/v1/actions", json=batch, headers=key(slow)) for _ in range(4)]
        assert [one.status_code for one in posted] == [202, 202, 429, 429]
        for url, body in (("/v1/rank", RANK), ("/v1/actions", batch)):
            assert all(
                site.http.post(url, json=body, headers=key(free)).is_success for _ in range(5)
            )
        read = Readings(site.http.get("/metrics").text)
        assert read.get("rate_limited_total", what="rankings") == 2
        assert read.get("rate_limited_total", what="records") == 2


def test_a_user_over_the_rate_is_rejected_item_by_item(publish, run_site, clicks):
    publish(1)
    with run_site(limits={"user_actions_per_second": 0.2, "burst_seconds": 10.0}) as site:
        batch = [*clicks("u1", ["i1", "i2", "i3", "i4"]), *clicks("u2", ["i1"])]
        answer = site.client.act(batch)
        over = [{"index": index, "field": "user", "reason": "rate_limited"} for index in (2, 3)]
        assert answer == {"accepted": 3, "rejected": over}
        read = Readings(site.http.get("/metrics").text)
        assert read.get("rate_limited_total", what="user_actions") == 2


def test_lists_and_batches_have_limits_of_their_own(publish, run_site, clicks):
    publish(1)
    with run_site(limits={"candidates": 2, "batch_records": 2}) as site:
        site.until_ready()
        assert site.client.rank("u1", ["i1", "i2"])
        with pytest.raises(RequestError, match=r"\(items\): must hold at most 2 elements"):
            site.client.rank("u1", ["i1", "i2", "i3"])
        with pytest.raises(RequestError, match=r"\(actions\): must hold 1 to 2 elements, not 3"):
            site.client.act(clicks("u1", ["i1", "i2", "i3"]))
