"""The Python clients: what they are asked comes about once, whatever fails on the way.

Every test runs with the blocking client and with the asynchronous one.
"""

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import msgspec
import pytest

from service.actions import Action, Impression
from service.client import AsyncClient, Client, RequestError
from service.client import answers as answered
from service.client import records as posted
from service.client.attempts import FIRST_SECONDS, LONGEST_SECONDS, Attempts
from service.histories.local import RECENT_IDS
from serving import batches, messages
from tests.serving.faulty import Faulty, answers, is_silent, passes_on, resets, resets_after

TAKEN = {"accepted": 1, "rejected": []}
CLICK = {"user": "u1", "item": "i1", "action": "click"}
AWAY = {"type": "urn:freshet:problem:log-unavailable", "title": "The log did not take it"}


class Awaited:
    """An AsyncClient whose methods are awaited where they are called."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(*arguments, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *arguments, **options: self._runner.run(method(*arguments, **options))

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture(params=[Client, Awaited])
def connect(request) -> Iterator[Callable[..., Any]]:
    """Make a client of either kind."""
    made: list[Any] = []

    def make(url: str, **options: Any) -> Any:
        made.append(request.param(url, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


def records(site, topic, kind):
    number = site.server.stream.bounds(topic, 0)[1]
    found = site.server.stream.read(topic, 0, 0, number) if number else []
    return [msgspec.json.decode(record.payload, type=kind) for record in found]


def keys_of(name: str) -> set[str]:
    """Of an answer that is not to be explained."""
    return set(getattr(answered, name).__required_keys__)


def keys(document: dict[str, Any]) -> set[str]:
    return set(document)


def test_the_client_needs_no_torch():
    check = "import sys, service.client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


# What is asked and answered.


def test_every_method_gets_what_its_type_says(site, connect, publish):
    client = connect(str(site.http.base_url))
    assert client.ready()
    assert keys(client.rank("u1", ["i1", 7], n=1, context={"a": None})) == keys_of("RankAnswer")
    best = client.recommend("u1", 3, exclude=["i1"], exclude_seen=False)
    assert [keys(one) for one in best["items"]] == [keys_of("ScoredItem")] * 3
    done = client.act([CLICK, {"user": "u1"}])
    assert (keys(done), done["accepted"]) == (keys_of("AppendAnswer"), 1)
    assert [keys(one) for one in done["rejected"]] == [keys_of("RejectedRecord")]
    shown = {"request": best["request_id"], "user": "u1", "items": ["i2"]}
    assert client.impressions([shown])["accepted"] == 1
    assert client.put_items([{"item": "i1", "hidden": True}])["accepted"] == 1
    versions = client.versions()
    assert keys(versions) == keys_of("VersionsAnswer")
    assert keys(versions["served"]) == keys_of("ServedVersion")
    assert client.activate(1) == {"generation": 1, "pinned": 1}
    assert client.unpin() == {"generation": 2, "pinned": None}


def test_an_explanation_is_asked_for_and_typed(site, connect):
    client = connect(str(site.http.base_url))
    for asked, of in ((client.rank, ["i1", "i2"]), (client.recommend, 2)):
        told = asked("u1", of, explain=True)
        assert keys(told["explanation"]) == keys_of("Explanation")
        assert [keys(one["explanation"]) for one in told["items"]] == [
            keys_of("ItemExplanation")
        ] * 2
        assert "explanation" not in asked("u1", of, explain=False)


@pytest.mark.parametrize(
    "name", ["RankAnswer", "ScoredItem", "AppendAnswer", "RejectedRecord", "VersionsAnswer",
             "ServedVersion", "PinAnswer", "Explanation", "ItemExplanation", "WeighedEvent"]
)  # fmt: skip
def test_types_of_answers_name_the_fields_that_the_server_sends(name):
    fields = set(getattr(messages, name).model_fields)
    assert set(getattr(answered, name).__annotations__) == fields


def test_types_of_what_is_sent_name_the_fields_that_the_server_takes():
    for name in ("PostedAction", "PostedImpression", "PostedItem"):
        fields = set(getattr(batches, name).__struct_fields__)
        assert set(getattr(posted, name).__annotations__) == fields
    assert {"user", "items", *posted.RankOptions.__annotations__} == set(
        messages.RankRequest.model_fields
    )
    assert {"user", "n", *posted.RecommendOptions.__annotations__} == set(
        messages.RecommendRequest.model_fields
    )


def test_an_error_answer_raises_with_status_field_and_detail(site, connect):
    client = connect(str(site.http.base_url))
    with pytest.raises(RequestError, match=r"422 .*\(items\[0\]\): must not be empty") as caught:
        client.rank("u1", [""])
    assert caught.value.status == 422
    assert caught.value.problem["field"] == "items[0]"


@pytest.mark.parametrize(
    ("status", "said"), [(418, "418 .*: .*leave"), (200, "200 no answer of a Freshet server")]
)
def test_an_answer_that_is_no_json_object_still_tells_its_status(faulty, connect, status, said):
    server = faulty(answers(status, "leave"))
    with pytest.raises(RequestError, match=said):
        connect(server.url).versions()
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_not_ready_and_is_asked_until_the_time_is_over(connect):
    client = connect("http://127.0.0.1:1", patience_seconds=0.3)
    assert not client.ready()
    started = time.monotonic()
    with pytest.raises(httpx.ConnectError):
        client.unpin()
    assert 0.05 < time.monotonic() - started < 5


def test_many_tasks_share_an_asynchronous_client(site):
    async def ask() -> list[Any]:
        async with AsyncClient(str(site.http.base_url)) as client:
            return await asyncio.gather(*(client.rank(f"u{n}", ["i1", "i2"]) for n in range(30)))

    assert {answer["version"] for answer in asyncio.run(ask())} == {1}


# What is asked again.


@pytest.fixture
def faulty() -> Iterator[Callable[..., Faulty]]:
    made: list[Faulty] = []

    def make(*steps: Any) -> Faulty:
        made.append(Faulty(*steps))
        return made[-1]

    yield make
    for server in made:
        server.close()


def test_actions_whose_answer_was_lost_are_sent_again_and_count_once(site, faulty, connect):
    url = str(site.http.base_url)
    lossy = faulty(resets_after(url), resets_after(url), passes_on(url))
    actions = [CLICK, {**CLICK, "item": "i2"}, {**CLICK, "item": "i3", "id": "mine"}]
    assert connect(lossy.url).act(actions)["accepted"] == 3
    first, second, third = lossy.bodies()
    assert first == second == third
    logged = records(site, "actions", Action)
    assert len(logged) == 9
    assert len({action.id for action in logged}) == 3
    assert [action.id for action in logged][2] == "mine"
    assert all("id" not in action for action in actions[:2])  # the caller's own stay as they are
    site.until(lambda: "freshet_history_records_total 9" in site.http.get("/metrics").text)
    site.client.rank("u1", ["i1"])
    (shown,) = site.until(lambda: records(site, "impressions", Impression))
    assert shown.history == 3


def test_503_and_then_202_is_a_success(faulty, connect):
    server = faulty(answers(503, AWAY), answers(503, AWAY), answers(202, TAKEN))
    assert connect(server.url).act([CLICK]) == TAKEN
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_says_when_to_come_back_is_not_asked_before(faulty, connect, status):
    server = faulty(answers(status, AWAY, Retry_After="1"), answers(200, {"version": 1}))
    started = time.monotonic()
    assert connect(server.url).rank("u1", ["i1"]) == {"version": 1}
    assert 1.0 <= time.monotonic() - started < 6


def test_one_that_says_so_beyond_the_patience_is_not_waited_for(faulty, connect):
    server = faulty(answers(429, AWAY, Retry_After="60"))
    started = time.monotonic()
    with pytest.raises(RequestError, match="429"):
        connect(server.url, patience_seconds=20.0).rank("u1", ["i1"])
    assert time.monotonic() - started < 5
    assert len(server.requests) == 1


def test_a_server_that_never_answers_is_asked_until_the_time_is_over(faulty, connect):
    server = faulty(is_silent)
    client = connect(server.url, timeout_seconds=0.3, patience_seconds=1.0)
    started = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        client.recommend("u1")
    assert 0.5 < time.monotonic() - started < 4
    assert len(server.requests) >= 2


def test_a_ranking_whose_answer_was_lost_is_asked_for_again(faulty, connect):
    server = faulty(resets, answers(200, {"version": 1}))
    assert connect(server.url).rank("u1", ["i1"]) == {"version": 1}


# What is not.


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422, 500])
def test_an_answer_that_would_be_the_same_is_final(faulty, connect, status):
    server = faulty(answers(status, AWAY))
    with pytest.raises(RequestError, match=str(status)):
        connect(server.url).act([CLICK])
    assert len(server.requests) == 1


def test_a_client_without_patience_asks_once(faulty, connect):
    server = faulty(answers(503, AWAY), answers(202, TAKEN))
    with pytest.raises(RequestError, match="503"):
        connect(server.url, patience_seconds=0.0).act([CLICK])
    assert len(server.requests) == 1


@pytest.mark.parametrize("ask", [lambda one: one.activate(1), lambda one: one.unpin()])
def test_decisions_that_may_have_been_taken_are_not_repeated(faulty, connect, ask):
    for step, error in ((resets, httpx.TransportError), (answers(503, AWAY), RequestError)):
        server = faulty(step)
        with pytest.raises(error):
            ask(connect(server.url))
        assert len(server.requests) == 1


def test_a_decision_that_was_put_off_is_taken_later(faulty, connect):
    server = faulty(answers(429, AWAY), answers(200, {"generation": 1, "pinned": 1}))
    assert connect(server.url).activate(1)["pinned"] == 1


@pytest.mark.parametrize(("of_one_user", "attempts"), [(RECENT_IDS, 2), (RECENT_IDS + 1, 1)])
def test_more_actions_of_a_user_than_ids_are_known_are_not_repeated(
    faulty, connect, of_one_user, attempts
):
    server = faulty(resets, answers(202, TAKEN))
    actions = [CLICK] * of_one_user + [{**CLICK, "user": "u2"}] * 9
    if attempts == 1:
        with pytest.raises(httpx.TransportError):
            connect(server.url).act(actions)
    else:
        connect(server.url).act(actions)
    assert len(server.requests) == attempts


# When it is.


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def failing(patience_seconds: float = 1e6, draw: Callable[[], float] = lambda: 1.0) -> Attempts:
    return Attempts(True, 10.0, patience_seconds, Clock(), draw)


def test_waits_are_drawn_below_a_bound_that_doubles_up_to_the_longest():
    attempts, lost = failing(), httpx.ReadError("")
    bounds = [attempts.wait(lost) for _ in range(9)]
    assert bounds == [min(LONGEST_SECONDS, FIRST_SECONDS * 2**n) for n in range(9)]
    assert bounds[-1] == LONGEST_SECONDS
    drawn = [failing(draw=random.Random(n).random).wait(lost) for n in range(500)]
    assert 0.0 <= min(drawn) < 0.01
    assert FIRST_SECONDS - 0.01 < max(drawn) <= FIRST_SECONDS


def test_a_call_ends_and_its_last_attempt_is_cut_to_what_is_left():
    clock = Clock()
    attempts = Attempts(True, 10.0, 12.0, clock, lambda: 0.0)
    assert attempts.timeout_seconds == 10.0
    clock.now = 9.0
    assert attempts.wait(httpx.ReadTimeout("")) == 0.0
    assert attempts.timeout_seconds == 3.0
    clock.now = 12.0
    assert attempts.wait(httpx.ReadTimeout("")) is None


@pytest.mark.parametrize(
    ("said", "low", "high"),
    [("7", 7, 7), ("0", 0, 0), ("soon", 0, 0), ("-3", 0, 0), ("1.5", 0, 0), ("", 0, 0)],
)  # fmt: skip
def test_retry_after_is_read_in_seconds(said, low, high):
    answer = httpx.Response(503, headers={"Retry-After": said})
    assert low <= failing(draw=lambda: 0.0).wait(answer) <= high


@pytest.mark.parametrize(("hours", "low", "high"), [(9, 8.5 * 3600, 9 * 3600), (-9, 0, 0)])
def test_retry_after_is_read_as_a_date(hours, low, high):
    said = format_datetime(datetime.now(UTC) + timedelta(hours=hours))
    test_retry_after_is_read_in_seconds(said, low, high)
