"""What is joined, and what becomes of everything else: the table of docs/joiner.md, row by row."""

from collections import Counter
from pathlib import Path

import pytest

from service.actions import Action, Impression, key_of
from service.histories.erased import Erased
from tests.trainer.joining.stories import CODES, LIKE, acted, block_of, shown
from trainer.joining import Joiner, JoinRules, Settled, Shown
from trainer.joining.waiting import Waiting

JOIN, CORRECT = 10, 30
CLICKED, LIKED = 1 << CODES["click"], 1 << CODES["like"]


class Talk:
    """A joiner that is told one thing after another."""

    def __init__(self) -> None:
        self.joiner = Joiner(JoinRules(JOIN * 1000, CORRECT * 1000))
        self.counts: Counter[str] = Counter()
        self._told = 0

    def tell(self, *records: Impression | Action) -> None:
        self.joiner.take(block_of(records, first=self._told))
        self._told += len(records)

    def until(self, seconds: float) -> Settled:
        """The watermark reaches this time."""
        settled = self.joiner.settle({}, round(seconds * 1000))
        self.counts += settled.counts
        return settled

    def closed(self, seconds: float) -> list[tuple[list[int], dict[int, int]]]:
        return [(entry.items, entry.acted) for entry in self.until(seconds).closed]

    def late(self, seconds: float) -> list[tuple[list[int], dict[int, int]]]:
        settled = self.until(seconds)
        assert settled.closed == []
        return [(entry.items, entry.acted) for entry in settled.late]


@pytest.fixture
def talk() -> Talk:
    return Talk()


A, B, C = map(key_of, "abc")


def test_an_action_labels_the_item_it_acted_on(talk: Talk) -> None:
    talk.tell(shown("r", 5, "a", "b", history=3, positions=[7, 2]))
    talk.tell(acted("r", "b", 6), acted("r", "b", 7, LIKE))
    (entry,) = talk.until(15).closed
    assert (entry.at_ms, entry.user, entry.items, entry.history) == (5000, key_of("u"), [A, B], 3)
    assert (entry.acted, entry.positions) == ({B: CLICKED | LIKED}, [7, 2])
    assert entry.own == [(B, CODES["click"], 6000), (B, CODES["like"], 7000)]
    assert talk.counts == {"joined": 2}
    assert talk.until(99) == Settled()


def test_a_request_stays_open_until_the_watermark_passes_its_window(talk: Talk) -> None:
    talk.tell(shown("r", 5, "a"))
    assert talk.closed(14.999) == []
    assert talk.closed(15.1) == [([A], {})]


def test_requests_close_in_order_of_showing_however_they_came(talk: Talk) -> None:
    talk.tell(shown("z", 3, "a"), shown("y", 1, "b"), shown("m", 2, "c"))
    assert talk.closed(12) == [([B], {}), ([C], {})]
    assert talk.closed(13.5) == [([A], {})]


def test_an_action_may_come_before_its_impression(talk: Talk) -> None:
    talk.tell(acted("r", "a", 6))
    assert talk.closed(14) == []
    talk.tell(shown("r", 5, "a"))
    assert talk.closed(15) == [([A], {A: CLICKED})]
    assert talk.counts == {"joined": 1}


def test_an_action_dated_a_little_before_its_impression_belongs_to_it(talk: Talk) -> None:
    talk.tell(shown("r", 25, "a", "b"), acted("r", "a", 24), acted("r", "b", 14.9))
    assert talk.closed(35) == [([A, B], {A: CLICKED})]
    assert talk.counts == {"joined": 1, "orphan": 1}


def test_what_was_really_shown_replaces_what_was_ranked(talk: Talk) -> None:
    talk.tell(shown("r", 5, "a", "b", "c", history=7), acted("r", "b", 6))
    talk.tell(shown("r", 5.5, "b", "c", history=7))
    assert talk.closed(15.5) == [([B, C], {B: CLICKED})]
    assert talk.counts == {"joined": 1, "replaced": 1}


def test_the_later_in_the_stream_replaces_in_whatever_order_they_are_read(talk: Talk) -> None:
    ranked, really = shown("r", 5, "a", "b"), shown("r", 4, "b")
    talk.joiner.take(block_of([really], first=8))
    talk.joiner.take(block_of([ranked], first=7))
    assert talk.closed(15) == [([B], {})]


def test_a_request_shown_again_after_it_was_learned_changes_nothing(talk: Talk) -> None:
    talk.tell(shown("r", 5, "a"))
    assert talk.closed(15) == [([A], {})]
    talk.tell(shown("r", 5, "a"), shown("r", 14, "b"))
    assert talk.closed(90) == []
    assert talk.counts == {"repeated": 2}


def test_nor_does_it_once_the_request_itself_is_forgotten(talk: Talk) -> None:
    talk.tell(shown("r", 5, "a"))
    assert talk.closed(15) == [([A], {})]
    for at in (50, 99, 140):  # kept until 55; each again comes before the last one is over
        talk.tell(shown("r", at, "a"))
        assert talk.closed(at + 2) == []
    assert talk.counts == {"repeated": 3}
    assert talk.joiner.numbers() == {"open": 0, "correctable": 0}
    assert talk.closed(300) == []
    assert talk.joiner.gone == {}


def test_an_impression_may_come_after_its_window_but_not_after_its_horizon(talk: Talk) -> None:
    talk.until(40)
    talk.tell(acted("late", "a", 31), shown("late", 25, "a"))
    assert talk.closed(40.5) == [([A], {A: CLICKED})]
    talk.until(100)
    talk.tell(shown("too late", 49, "a"), acted("too late", "a", 49))
    assert talk.closed(101) == []
    assert talk.counts == {"joined": 1, "late": 1, "orphan": 1}


def test_the_same_action_twice_counts_once(talk: Talk) -> None:
    once = acted("r", "a", 6, name="x")
    talk.tell(shown("r", 5, "a"), once, once, acted("r", "a", 7, name="x"), acted("r", "a", 8))
    (entry,) = talk.until(15).closed
    assert entry.acted == {A: CLICKED}
    assert talk.counts == {"joined": 3, "duplicate": 1}


def test_an_action_whose_impression_never_comes_is_an_orphan(talk: Talk) -> None:
    talk.tell(acted("r", "a", 6))
    talk.until(15.999)
    assert talk.counts == {}
    talk.until(16.1)
    assert talk.counts == {"orphan": 1}
    talk.tell(shown("r", 7, "a"))  # too late for it
    assert talk.closed(17.2) == [([A], {})]


def test_an_action_on_an_item_that_was_not_shown_labels_nothing(talk: Talk) -> None:
    talk.tell(shown("r", 5, "a"), acted("r", "b", 6))
    assert talk.closed(15) == [([A], {})]
    talk.tell(acted("r", "c", 16))
    assert talk.late(16) == []
    assert talk.counts == {}


def test_another_user_cannot_label_a_list(talk: Talk) -> None:
    talk.tell(shown("r", 5, "a"), acted("r", "a", 6, user="v"))
    assert talk.closed(15) == [([A], {})]


def test_a_late_positive_is_corrected_once(talk: Talk) -> None:
    talk.tell(shown("r", 5, "a", "b", "c", history=2, positions=[4, 5, 6]), acted("r", "c", 6))
    assert talk.closed(15) == [([A, B, C], {C: CLICKED})]
    talk.tell(acted("r", "b", 12), acted("r", "c", 13), acted("r", "c", 13, LIKE))
    settled = talk.until(20)
    click, like = CODES["click"], CODES["like"]
    own = [(C, click, 6000), (B, click, 12_000), (C, click, 13_000), (C, like, 13_000)]
    assert settled.late == [
        Shown(
            5000, key_of("u"), [B, C], 2, {B: CLICKED, C: LIKED}, settled.late[0].key, [5, 6],
            own, late=True,
        )
    ]  # fmt: skip
    talk.tell(acted("r", "b", 14), acted("r", "b", 12))
    assert talk.late(25) == []
    assert talk.counts == {"joined": 1, "corrected": 2, "again": 2, "duplicate": 1}


def test_a_click_after_the_window_is_late_whether_or_not_the_impression_was_closed(
    talk: Talk,
) -> None:
    talk.tell(shown("r", 5, "a"), acted("r", "a", 16))
    settled = talk.until(16)
    assert [entry.acted for entry in settled.closed] == [{}]
    assert [entry.acted for entry in settled.late] == [{A: CLICKED}]


def test_beyond_the_horizon_nothing_is_corrected(talk: Talk) -> None:
    talk.tell(shown("r", 5, "a"))
    talk.until(15)
    talk.tell(acted("r", "a", 45), acted("r", "a", 52))
    assert talk.late(52) == []
    assert talk.counts == {"too_late": 2}
    talk.until(56)  # the request is forgotten, but known by its key
    talk.tell(acted("r", "a", 55))
    assert talk.late(57) == []
    assert talk.counts == {"too_late": 3}
    talk.until(66)  # nobody knows it any more
    talk.tell(acted("r", "a", 66))
    talk.until(77)
    assert talk.counts == {"too_late": 3, "orphan": 1}


def test_a_late_action_within_the_horizon_counts_though_one_beyond_it_came_first(
    talk: Talk,
) -> None:
    talk.tell(shown("r", 5, "a"))
    talk.until(15)
    talk.tell(acted("r", "a", 46))
    assert talk.late(46) == []
    talk.tell(acted("r", "a", 44))
    assert talk.late(47) == [([A], {A: CLICKED})]


def test_what_could_not_be_learned_is_not_corrected(talk: Talk) -> None:
    talk.tell(shown("r", 5, "a"))
    (entry,) = talk.until(15).closed
    talk.joiner.give_up([entry.key])
    talk.tell(acted("r", "a", 6))
    assert talk.late(20) == []
    assert talk.joiner.unusable == {entry.key}
    talk.until(60)
    assert talk.joiner.unusable == set()


def test_an_action_without_request_goes_to_the_latest_impression_that_shows_its_item(
    talk: Talk,
) -> None:
    talk.tell(shown("1", 2, "a", "b"), shown("2", 4, "a"), shown("3", 6, "b"))
    talk.tell(shown("4", 4, "a", user="v"))
    talk.tell(acted(None, "a", 5), acted(None, "b", 5.5), acted(None, "b", 12.5))
    closed = talk.closed(17)
    by_items = [acts for items, acts in closed if items == [A]]
    assert sorted(map(len, by_items)) == [0, 1]
    assert closed[0] == ([A, B], {B: CLICKED})
    assert closed[3] == ([B], {B: CLICKED})


def test_an_action_without_request_may_come_before_or_long_after_its_impression(
    talk: Talk,
) -> None:
    talk.tell(shown("0", 1, "c"))
    talk.tell(acted(None, "a", 6))
    talk.until(10)
    talk.tell(shown("r", 5, "a", "b"))
    assert talk.closed(15)[-1] == ([A, B], {A: CLICKED})
    talk.tell(acted(None, "b", 7), acted(None, "b", 15.5), acted(None, "b", 7))
    assert talk.late(20) == [([B], {B: CLICKED})]  # the second is not of its window
    assert talk.counts["corrected"] == 1


def test_without_any_impression_actions_without_request_are_not_kept(talk: Talk) -> None:
    talk.tell(acted(None, "a", 1), acted(None, "b", 2))
    assert talk.joiner.waiting.rows("SELECT * FROM loose") == []
    talk.tell(shown("r", 2, "b"), acted(None, "b", 3))
    assert talk.closed(12) == [([B], {B: CLICKED})]


@pytest.mark.parametrize("said", [-1, 2**40])
def test_a_history_that_no_scoring_saw_is_not_believed(talk: Talk, said: int) -> None:
    talk.joiner._show(shown("r", 5, "a", history=said), (0, 0))
    assert [entry.history for entry in talk.until(15).closed] == [None]


def test_positions_that_do_not_fit_the_list_are_not_believed(talk: Talk) -> None:
    talk.tell(shown("r", 5, "a", "b", positions=[3]), shown("s", 6, "a", positions=[-7]))
    assert [entry.positions for entry in talk.until(16).closed] == [None, [0]]


def test_all_that_waits_of_erased_users_goes(talk: Talk) -> None:
    talk.tell(
        shown("r", 5, "a"), acted("r", "a", 6), acted(None, "a", 6), acted("s", "a", 6),
        shown("r", 5, "b", user="v"),
    )  # fmt: skip
    talk.joiner.erase(Erased.of({key_of("u"): 99_000}))
    assert talk.closed(17) == [([B], {})]
    assert talk.counts == {}
    talk.tell(shown("later", 20, "c"))
    assert talk.closed(30) == [([C], {})]


def test_an_erased_user_is_named_neither_in_the_facts_nor_in_the_file(tmp_path: Path) -> None:
    user, waiting = key_of("u"), Waiting(tmp_path, budget_bytes=1)
    joiner = Joiner(JoinRules(JOIN * 1000), waiting)
    lists = [shown(f"r{n}", 5, *range(99), user="u" if n % 2 else "v") for n in range(500)]
    joiner.take(block_of(lists))
    (file,) = tmp_path.iterdir()
    written = user.to_bytes(8, "big", signed=True)
    assert written in file.read_bytes()
    joiner.erase(Erased.of({user: 99_000}))
    for n in range(500):  # what is in memory makes room for others
        joiner.take(block_of([shown(f"s{n}", 5, *range(99), user="v")], first=500 + n))
    assert written not in file.read_bytes()
    facts = joiner.state()["facts"].numpy().tobytes()
    assert written not in facts
    assert written[::-1] not in facts
    waiting.close()


def test_a_request_of_any_characters_has_a_key(talk: Talk) -> None:
    for request in ("", "\ud800", "r" * 9999):
        talk.tell(Impression(request="x", user="u", at=1, items=["a"]))
        talk.joiner._show(shown(request, 5, "a"), (0, 99))
    assert len(talk.until(15).closed) == 4


def test_propensities_stay_with_their_items(talk: Talk) -> None:
    chances = [1 / 3, 0.1, 0.9]
    talk.tell(shown("r", 5, "a", "b", "c", propensities=chances), shown("s", 5, "a"))
    talk.tell(shown("t", 5, "a", "b", propensities=[0.5]))
    found = {tuple(entry.items): entry.propensities for entry in talk.until(15).closed}
    assert found == {(A, B, C): chances, (A,): None, (A, B): None}
    talk.tell(acted("r", "c", 20), acted("s", "a", 20))
    late = {tuple(entry.items): entry.propensities for entry in talk.until(26).late}
    assert late == {(C,): [0.9], (A,): None}
