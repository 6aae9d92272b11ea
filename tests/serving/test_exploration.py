"""Lists by Thompson sampling over HTTP: the same for a request id, and as probable as they say."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.action_types import ActionTypes
from service.actions import Impression
from service.client import RequestError
from service.model.posterior import DRAWS, FACTOR
from serving.exploration import best, draw_of, marked, propensities
from serving.messages import RankAnswer
from tests.serving.conftest import ITEMS, MODEL, Publisher, Site, running

AT = 1_732_096_800.0
CANDIDATES = ITEMS[:25]
TYPES = len(ActionTypes().types)
BESIDE = {FACTOR: 16 * torch.eye(MODEL.dim + 1).repeat(TYPES, 1, 1)}
"""Log odds that deviate by a quarter: between sure and anything."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server whose version knows how sure it is, and that logs what it returns."""
    data = tmp_path_factory.mktemp("exploring")
    Publisher(data)(1, beside=BESIDE)
    with running(data) as started:
        started.until_ready()
        yield started


def ids(answer: Any) -> list[Any]:
    return [one["item"] for one in answer["items"]]


def rank(site: Site, explore: float | None = 1.0, **options: Any) -> Any:
    return site.client.rank("u1", CANDIDATES, explore=explore, at=AT, **options)


def recommend(site: Site, explore: float | None = 1.0, n: int = 8, **options: Any) -> Any:
    return site.client.recommend("u1", n=n, explore=explore, at=AT, **options)


ASKING = pytest.mark.parametrize("ask", [rank, recommend])


@ASKING
def test_a_request_id_always_draws_the_same_list(site: Site, ask: Callable[..., Any]) -> None:
    first, again, other = (ask(site, n=8, request=one) for one in ("r-1", "r-1", "r-2"))
    RankAnswer.model_validate_json(msgspec.json.encode(first))
    assert first["items"] == again["items"]
    assert ids(first) != ids(other)
    scores = [one["score"] for one in first["items"]]
    assert scores == sorted(scores, reverse=True)
    stranger = site.client.rank("u2", CANDIDATES, explore=1.0, at=AT, request="r-1")
    assert ids(stranger)[:8] != ids(rank(site, request="r-1"))[:8]


@ASKING
def test_without_exploration_nothing_is_left_to_chance(site: Site, ask: Callable[..., Any]) -> None:
    plain, absent = ask(site, 0.0, n=8), ask(site, None, n=8)
    assert plain["items"] == absent["items"]
    assert not any("propensity" in one for one in plain["items"])


def test_scores_are_what_heads_say_and_what_was_drawn(site: Site) -> None:
    body = {"user": "u1", "items": CANDIDATES, "explore": 0.5, "at": AT, "request": "r-why"}
    answer = site.http.post("/v1/rank?explain=true", json=body).json()
    RankAnswer.model_validate_json(msgspec.json.encode(answer))
    weights = {name: kind.weight for name, kind in ActionTypes().types.items()}
    for one in answer["items"]:
        why = one["explanation"]
        heads = sum(weights[name] * logit for name, logit in why["logits"].items())
        assert one["score"] == pytest.approx(one["next_item"] + heads + why["explored"], abs=2e-5)
        assert why["explored"]
    assert ids(answer) == ids(rank(site, 0.5, request="r-why"))
    plain = site.http.post("/v1/rank?explain=true", json=body | {"explore": 0}).json()
    assert "explored" not in plain["items"][0]["explanation"]


def test_pages_of_an_explored_request_never_repeat_an_item(site: Site) -> None:
    pages = [recommend(site, n=7, page=page, request="r-pages") for page in range(6)]
    found = [item for page in pages for item in ids(page)]
    assert len(found) == len(set(found)) == 40
    assert ids(recommend(site, n=7, page=2, request="r-pages")) == ids(pages[2])
    # Another server, which gave no earlier page, leaves out what they would have held.
    tables = site.core.engine.do(lambda tables: tables)
    tables.pages._given.clear()
    tables.pages.nbytes = 0
    assert ids(recommend(site, n=7, page=2, request="r-pages")) == ids(pages[2])


def spread(propensity: float, runs: int) -> float:
    """Four standard errors of the difference between an estimate and a share of `runs`."""
    halves = 1 / (2 * DRAWS + 2)
    return float(4 * np.sqrt(propensity * (1 - propensity) * (1 / DRAWS + 1 / runs)) + halves)


def assert_as_probable_as_they_say(ask: Callable[[str], Any], runs: int = 400) -> None:
    """Against how often other requests are shown the same items: brute force."""
    answers = [ask(f"r-brute-{number}") for number in range(runs)]
    shown = [item for answer in answers for item in ids(answer)]
    said = {one["item"]: one["propensity"] for answer in answers for one in answer["items"]}
    assert len({round(one, 2) for one in said.values()}) > 5
    for item, propensity in said.items():
        assert 0 < propensity < 1
        assert abs(shown.count(item) / runs - propensity) < spread(propensity, runs)
    # And the chances of all items fill the list.
    mean = np.mean([sum(one["propensity"] for one in answer["items"]) for answer in answers])
    assert mean < len(answers[0]["items"])


def test_propensities_of_a_ranking_are_what_repetition_finds(site: Site) -> None:
    assert_as_probable_as_they_say(lambda request: rank(site, n=5, request=request))


@pytest.mark.parametrize("diversity", [0.0, 0.5])
def test_propensities_of_recommendations_are_what_repetition_finds(
    site: Site, diversity: float
) -> None:
    assert_as_probable_as_they_say(
        lambda request: recommend(site, n=5, request=request, diversity=diversity)
    )


def test_propensities_of_a_page_are_given_what_other_pages_hold(site: Site) -> None:
    first = ids(recommend(site, n=5, request="r-second"))
    second = recommend(site, n=5, page=1, request="r-second")
    runs = 400
    shown = [
        item for number in range(runs)
        for item in ids(recommend(site, n=5, exclude=first, request=f"r-page-{number}"))
    ]  # fmt: skip
    for one in second["items"]:
        share = shown.count(one["item"]) / runs
        assert abs(share - one["propensity"]) < spread(one["propensity"], runs)


def test_a_list_of_all_candidates_owes_nothing_to_chance_but_its_order(site: Site) -> None:
    assert {one["propensity"] for one in rank(site)["items"]} == {1.0}
    assert {one["propensity"] for one in rank(site, n=99)["items"]} == {1.0}


def test_hidden_items_take_no_place_in_any_draw(publish: Publisher, run_site: Any) -> None:
    publish(1, beside=BESIDE)
    with run_site() as site:
        site.until_ready()
        site.client.put_items([{"item": item, "hidden": True} for item in CANDIDATES[5:]])
        site.until(lambda: rank(site, 0.0)["left_out"] == 20)
        answer = rank(site, n=4)
        assert set(ids(answer)) < set(CANDIDATES[:5])
        assert all(one["propensity"] > 0.2 for one in answer["items"])
        assert {one["propensity"] for one in rank(site, n=5)["items"]} == {1.0}


def logged(site: Site, request: str) -> Impression:
    def found() -> Any:
        records = site.server.stream.read("impressions", 0, 0, 10_000)
        shown = [msgspec.json.decode(one.payload, type=Impression) for one in records]
        return next((one for one in shown if one.request == request), None)

    impression: Impression = site.until(found)
    return impression


def test_propensities_are_logged_with_what_was_shown(site: Site) -> None:
    answer = recommend(site, n=6, request="r-logged")
    impression = logged(site, "r-logged")
    assert impression.items == ids(answer)
    assert impression.propensities == [one["propensity"] for one in answer["items"]]
    recommend(site, 0.0, request="r-plain")
    assert logged(site, "r-plain").propensities is None


def test_a_version_that_does_not_know_how_sure_it_is_ranks_as_ever(
    publish: Publisher, run_site: Any
) -> None:
    publish(1)
    with run_site(serving={"exploration": 1.0}) as site:
        site.until_ready()
        assert rank(site)["items"] == rank(site, 0.0)["items"]


def test_a_server_may_explore_where_nobody_asks(publish: Publisher, run_site: Any) -> None:
    publish(1, beside=BESIDE)
    with run_site(serving={"exploration": 1.0}) as site:
        site.until_ready()
        assert rank(site, None, request="r")["items"] == rank(site, 1.0, request="r")["items"]
        assert rank(site, None, request="r")["items"] != rank(site, 0.0, request="r")["items"]
        assert "propensity" in recommend(site, None, n=5, diversity=0.5)["items"][0]
        assert "propensity" not in recommend(site, None, n=101, diversity=0.5)["items"][0]


@pytest.mark.parametrize(
    "options", [{"explore": 1.1}, {"explore": -0.1}, {"explore": "much"},
                {"explore": 0.1, "diversity": 0.5, "n": 26, "page": 3}],
)  # fmt: skip
def test_what_cannot_be_explored_is_refused(site: Site, options: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        site.client.recommend("u1", **options)
    assert caught.value.problem["field"] == "explore"
    assert recommend(site, 0.1, diversity=0.5, n=25, page=3)["items"] == []


def first_of(scores: Sequence[float], count: int) -> list[bool]:
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:count]
    return [place in order for place in range(len(scores))]


@settings(deadline=None, derandomize=True)
@given(
    st.integers(1, 12).flatmap(lambda size: st.lists(
        st.lists(st.integers(0, 4), min_size=size, max_size=size), min_size=1, max_size=6,
    )),
    st.integers(0, 14),
)  # fmt: skip
def test_the_best_of_equals_are_the_first(scores: list[list[int]], count: int) -> None:
    listed = best(np.array(scores, np.float32), count)
    assert listed.tolist() == [first_of(one, count) for one in scores]


def test_the_estimate_is_a_share_with_half_a_draw_on_either_side() -> None:
    listed = marked(np.array([[0, 1], [1, 0], [1, 2]]), 4)
    assert propensities(listed).tolist() == [2.5 / 4, 3.5 / 4, 1.5 / 4, 0.5 / 4]


def test_a_draw_is_of_a_user_and_a_request() -> None:
    assert draw_of(0.0, "r", 1) is None
    draws = {draw_of(0.5, request, user) for request in ("r", "s", "\ud800") for user in (1, -1)}
    assert len(draws) == 6
    assert draw_of(0.5, "r", 1) in draws
