"""Whatever a client sends, the server does not fail: it answers, or says what is wrong."""

import json
import string
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.keys import new_key
from serving.problems import MEDIA_TYPE, TITLES, TYPE_PREFIX

often = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

PATHS = (
    "/v1/rank", "/v1/recommend", "/v1/actions", "/v1/impressions", "/v1/items", "/v1/versions",
    "/v1/versions/unpin", "/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs",
)  # fmt: skip
IN_PATHS = [one for one in string.printable if one not in string.whitespace + "#?"]
numbers = st.integers(-(10**30), 10**30).map(str) | st.integers(1, 6000).map(lambda n: "9" * n)
paths = st.one_of(
    st.sampled_from(PATHS),
    numbers.map("/v1/versions/{}/activate".format),
    st.text(IN_PATHS).map("/{}".format),
)
methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"])
visible = st.text([chr(code) for code in range(33, 127)], max_size=40)
headers = st.dictionaries(
    st.sampled_from(
        ["Accept", "Authorization", "X-API-Key", "traceparent", "Origin", "Cookie", "Expect",
         "Upgrade", "Connection", "X-Request-Id", "Range", "If-None-Match", "Accept-Encoding"]
    ),
    visible | st.sampled_from(["100-continue", "websocket", "upgrade", "close", "Bearer", "null"]),
    max_size=4,
)  # fmt: skip
types = st.sampled_from(["application/json", "application/json; charset=latin-1", "text/plain", ""])

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["u1", "i1", "click", "", "\ud800", "x" * 300, 2**63, -(2**63), 1e300]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = ("user", "item", "items", "action", "at", "n", "request", "context", "exclude", "id", "v",
          "exclude_seen", "value", "positions", "propensities", "history", "version")  # fmt: skip
records = st.dictionaries(st.sampled_from(FIELDS), values, max_size=6)
good = st.fixed_dictionaries(
    {"user": st.sampled_from(["u1", 7]), "item": st.just("i1"), "action": st.just("click")}
)
batches = st.builds(
    lambda name, elements: {name: elements},
    st.sampled_from(["actions", "impressions", "items"]),
    st.lists(records | good | values, max_size=4),
)
bodies = st.one_of(
    st.binary(max_size=200),
    st.builds(json.dumps, records | batches | values).map(str.encode),
    st.sampled_from(
        [b"", b"[" * 100_000, b'{"user": 1' + b" " * 1000, b'{"items": NaN}', b"\xff{}"]
    ),
)


def judge(answer: httpx.Response) -> None:
    """No failure; and what is refused is a problem document of a known type."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        assert answer.headers["Content-Type"] == MEDIA_TYPE
        document: dict[str, Any] = answer.json()
        assert document["status"] == answer.status_code
        assert document["type"].removeprefix(TYPE_PREFIX) in TITLES


@often
@given(methods, paths, headers, types, bodies)
def test_a_server_without_keys_never_fails(site, method, path, more, kind, body):
    target = site.http.base_url.copy_with(raw_path=path.encode())
    sent = {**more, **({"Content-Type": kind} if kind else {})}
    judge(site.http.request(method, target, content=body, headers=sent))


@often
@given(st.sampled_from(["/v1/rank", "/v1/recommend"]), records)
def test_rankings_that_are_almost_right_never_fail(site, path, record):
    body = json.dumps({"user": "u1", "items": ["i1"], **record} if path == "/v1/rank" else record)
    judge(site.http.post(path, content=body, headers={"Content-Type": "application/json"}))


@often
@given(batches)
def test_batches_that_are_almost_right_never_fail(site, batch):
    (name,) = batch
    content = json.dumps(batch)
    sent = {"Content-Type": "application/json"}
    judge(site.http.post(f"/v1/{name}", content=content, headers=sent))


@often
@given(token=st.binary(max_size=80) | st.just(new_key("x", ("read",)).token.encode()))
def test_keys_that_are_none_are_refused_and_nothing_else(keyed, token):
    clean = bytes(byte for byte in token if byte >= 32 and byte != 127)
    answer = keyed.http.get("/v1/versions", headers={b"X-API-Key": clean.strip()})
    assert answer.status_code == 401
    judge(answer)


@pytest.fixture
def keyed(publish, run_site, tmp_path):
    """A ready server that needs keys, of which there are none."""
    publish(1)
    (tmp_path / "keys.toml").write_text("")
    with run_site(serving={"keys": "keys.toml"}) as site:
        site.until_ready()
        yield site
