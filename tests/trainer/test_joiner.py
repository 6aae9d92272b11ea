"""Impressions and the actions that followed them, in event time."""

import numpy as np
import pytest

from service.actions import Id, Impression, key_of
from service.histories.erased import Erased
from service.histories.local import Events
from trainer.joiner import Joiner, Open

CLICK, LIKE = 0, 2


def shown(
    request: str, at: float, *items: Id, history: int | None = None, user: Id = "u"
) -> Impression:
    return Impression(request=request, user=user, at=at, items=list(items), history=history)


def acted(joiner: Joiner, *actions: tuple[str | None, Id, int, int]) -> None:
    """Actions as (request, item, code, time in ms)."""
    requests, items, codes, times = zip(*actions, strict=True)
    column = np.zeros(len(actions), np.int64)
    keys = np.array([key_of(item) for item in items])
    joiner.acted(
        Events(column, keys, np.array(codes), np.array(times), column), list(requests)
    )  # fmt: skip


@pytest.fixture
def joiner() -> Joiner:
    return Joiner(join_ms=10_000)


def test_an_action_labels_the_item_it_acted_on(joiner: Joiner) -> None:
    joiner.shown([shown("r", 5.0, "a", "b", history=3)])
    acted(joiner, ("r", "b", CLICK, 6000), ("r", "b", LIKE, 7000), (None, "a", CLICK, 7000))
    assert joiner.close(15_000) == [
        Open(5000, key_of("u"), [key_of("a"), key_of("b")], 3, {key_of("b"): 0b101})
    ]
    assert joiner.close(99_000) == []


def test_a_request_stays_open_until_the_watermark_passes_its_end(joiner: Joiner) -> None:
    joiner.shown([shown("r", 5.0, "a")])
    assert joiner.close(14_999) == []
    assert len(joiner.close(15_000)) == 1


def test_requests_close_in_order_of_arrival(joiner: Joiner) -> None:
    joiner.shown([shown(name, at, name) for name, at in [("z", 3.0), ("a", 1.0), ("m", 2.0)]])
    assert [entry.items for entry in joiner.close(12_000)] == [[key_of("a")], [key_of("m")]]
    joiner.shown([shown("b", 1.0, "b")])
    assert [entry.items for entry in joiner.close(13_000)] == [[key_of("z")], [key_of("b")]]


def test_what_was_really_shown_replaces_what_was_ranked(joiner: Joiner) -> None:
    joiner.shown([shown("r", 5.0, "a", "b", "c", history=7)])
    acted(joiner, ("r", "b", CLICK, 6000))
    joiner.shown([shown("r", 5.5, "b", "c", history=7)])
    (entry,) = joiner.close(15_500)
    assert entry.items == [key_of("b"), key_of("c")]
    assert entry.acted == {key_of("b"): 1}


def test_an_action_may_come_before_its_impression(joiner: Joiner) -> None:
    acted(joiner, ("r", "a", CLICK, 6000))
    joiner.shown([shown("r", 5.0, "a")])
    (entry,) = joiner.close(15_000)
    assert (entry.at_ms, entry.acted, joiner.orphans) == (5000, {key_of("a"): 1}, 0)


def test_an_action_whose_impression_never_comes_is_an_orphan(joiner: Joiner) -> None:
    acted(joiner, ("r", "a", CLICK, 6000))
    assert joiner.close(15_999) == []
    assert joiner.orphans == 0
    assert joiner.close(16_000) == []
    assert (joiner.orphans, joiner.open) == (1, {})


@pytest.mark.parametrize("said", [-1, -(2**70), 2**70])
def test_a_history_that_no_scoring_saw_is_not_believed(joiner: Joiner, said: int) -> None:
    joiner.shown([shown("r", 5.0, "a", history=said)])
    restored = Joiner(10_000)
    restored.load(joiner.state())
    assert restored.open["r"].history is None


def test_a_loaded_joiner_goes_on_like_the_one_that_was_saved(joiner: Joiner) -> None:
    joiner.shown([shown("b", 2.0, 7, "x", history=0), shown("a", 1.0, "y")])
    acted(joiner, ("a", "y", 63, 3000), ("orphan", "y", CLICK, 3000))
    joiner.close(11_000)
    again = Joiner(10_000)
    again.shown([shown("other", 1.0, "o")])
    again.load(joiner.state())
    assert (again.open, list(again.open)) == (joiner.open, list(joiner.open))
    assert again.close(99_000) == joiner.close(99_000)
    assert again.orphans == joiner.orphans == 1


def test_open_requests_of_erased_users_are_dropped_and_others_close_as_before(
    joiner: Joiner,
) -> None:
    joiner.shown(
        [
            shown("a", 5.0, "x", user="gone"),
            shown("b", 5.0, "x", user="other"),
            shown("c", 6.0, "x", user="gone"),
        ]
    )
    acted(joiner, ("b", "x", CLICK, 5500), ("c", "x", CLICK, 6500))
    joiner.erase(Erased.of({key_of("gone"): 5000, 9: 9000}))
    assert list(joiner.open) == ["b", "c"]
    assert [entry.user for entry in joiner.close(99_000)] == [key_of("other"), key_of("gone")]
    joiner.erase(Erased.of({key_of("gone"): 5000}))
    assert (joiner.open, joiner.orphans) == ({}, 0)


def test_an_action_of_an_erased_user_that_still_waits_for_its_list_is_dropped(
    joiner: Joiner,
) -> None:
    column = np.zeros(2, np.int64)
    user_T = np.array([key_of("gone"), key_of("other")])
    joiner.acted(Events(user_T, column, column, column + 5000, column), ["r", "s"])
    joiner.erase(Erased.of({key_of("gone"): 5000}))
    assert list(joiner.open) == ["s"]
