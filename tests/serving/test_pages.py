"""What a request id was given: by page, for a while, within bounds; and over HTTP never twice."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from service.client import RequestError
from serving.messages import MAX_PAGE
from serving.pages import ENTRY_BYTES, PAGE_BYTES, Pages
from tests.serving.conftest import Site

SECONDS = 60.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def keys(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


def pages_of(limit: int = 10**6) -> tuple[Pages, Clock]:
    clock = Clock()
    return Pages(limit, SECONDS, clock), clock


def others(pages: Pages, page: int, asked: tuple[str, int] = ("r", 1)) -> tuple[list[int], int]:
    keys_E, missing = pages.others(asked, page)
    return keys_E.tolist(), missing


def test_a_page_is_told_what_the_others_held_and_which_are_missing() -> None:
    pages, _ = pages_of()
    assert others(pages, 2) == ([], 2)
    pages.put(("r", 1), 0, keys(1, 2))
    pages.put(("r", 1), 2, keys(5))
    assert others(pages, 1) == ([1, 2, 5], 0)
    assert others(pages, 3) == ([1, 2, 5], 1)
    assert others(pages, 0) == ([5], 0)
    pages.put(("r", 1), 0, keys(9))
    assert others(pages, 1) == ([9, 5], 0)
    assert others(pages, 1, ("r", 2)) == ([], 1)


def test_a_request_is_forgotten_some_time_after_its_last_page() -> None:
    pages, clock = pages_of()
    pages.put(("r", 1), 0, keys(1))
    clock.now += SECONDS - 1
    pages.put(("r", 1), 1, keys(2))
    clock.now += SECONDS - 1
    assert others(pages, 2) == ([1, 2], 0)
    clock.now += 1
    assert others(pages, 2) == ([], 2)
    assert pages.nbytes == 0


def test_memory_is_bounded_and_the_oldest_leave_first() -> None:
    room = ENTRY_BYTES + PAGE_BYTES + 8
    pages, _ = pages_of(3 * room)
    for user in range(5):
        pages.put(("r", user), 0, keys(user))
        assert pages.nbytes <= 3 * room
    known = [user for user in range(5) if pages.others(("r", user), 1)[1] == 0]
    assert known == [2, 3, 4]
    assert pages.nbytes == 3 * room


def asked(site: Site, page: int, n: int = 7, **options: Any) -> Sequence[Any]:
    answer = site.client.recommend("u1", n=n, page=page, **options)
    return [one["item"] for one in answer["items"]]


def test_pages_of_a_request_never_repeat_an_item_and_end_where_items_do(site: Site) -> None:
    every = asked(site, 0, n=1000)
    found: list[Any] = []
    for page in range(100):
        found += (one := asked(site, page, request="r-all"))
        if len(one) < 7:
            break
    assert len(found) == len(set(found))
    assert set(found) == set(every)


def test_the_request_id_of_an_answer_leads_to_the_next_page(site: Site) -> None:
    first = site.client.recommend("u1", n=5)
    second = asked(site, 1, n=5, request=first["request_id"])
    assert second
    assert not {one["item"] for one in first["items"]} & set(second)


def test_a_page_that_is_asked_for_again_is_the_same(site: Site) -> None:
    first, second = (asked(site, page, request="r-again") for page in (0, 1))
    assert asked(site, 0, request="r-again") == first
    assert asked(site, 1, request="r-again") == second


def test_a_server_that_gave_no_earlier_page_leaves_out_what_they_would_have_held(
    site: Site,
) -> None:
    whole = [asked(site, page, request="r-here") for page in (0, 1, 2)]
    assert asked(site, 2, request="r-elsewhere") == whole[2]


def test_a_new_action_between_pages_repeats_nothing(site: Site) -> None:
    first = asked(site, 0, n=3, request="r-act", exclude_seen=False)
    site.client.act([{"user": "u1", "item": first[0], "action": "click"}])
    second = asked(site, 1, n=3, request="r-act", exclude_seen=False)
    assert not set(first) & set(second)


def test_pages_beyond_all_items_are_empty_and_their_numbers_bounded(site: Site) -> None:
    assert asked(site, 40) == asked(site, MAX_PAGE, n=1000) == []
    with pytest.raises(RequestError, match="page") as caught:
        site.client.recommend("u1", page=MAX_PAGE + 1)
    assert caught.value.problem["field"] == "page"
