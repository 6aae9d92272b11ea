"""Target rows: what the scoring of an impression saw, and nothing that came after it."""

import numpy as np
import pytest
import torch

from service.histories.local import Events, LocalHistories
from service.histories.settings import HistorySettings
from trainer.joining import Shown
from trainer.targets import TargetBatch, Targets, target_batch

WINDOW, TYPES = 8, 5


def append(histories: LocalHistories, user: int, items: range, at_ms: int) -> None:
    """Events a second apart; each item is its event's ordinal."""
    items_T = np.array(items, np.int64)
    histories.append(
        Events(
            np.full(len(items_T), user), items_T, items_T % 3,
            at_ms + 1000 * np.arange(len(items_T)), np.zeros(len(items_T), np.int64),
        ),
        watermark_ms=0,
    )  # fmt: skip


@pytest.fixture
def histories() -> LocalHistories:
    return LocalHistories(HistorySettings(ttl_seconds=None, capacity=64))


def targets(histories: LocalHistories, *closed: Shown) -> TargetBatch | None:
    return target_batch(closed, histories, WINDOW, TYPES)


def seen_by(batch: TargetBatch, impression: int) -> list[int]:
    first, last = batch.seen.events.offsets[impression : impression + 2].tolist()
    return batch.seen.item_E[first:last].tolist()


def test_a_target_sees_what_its_scoring_saw(histories: LocalHistories) -> None:
    append(histories, 1, range(10), at_ms=0)
    batch = targets(histories, Shown(at_ms=20_000, user=1, items=[7, 8, 9], history=10))
    assert batch is not None
    assert seen_by(batch, 0) == list(range(2, 10))  # start(9) = 2 for a window of 8
    assert batch.seen.before_ms_E.tolist() == [1000 * i for i in range(1, 9)]
    assert batch.seen.action_E.tolist() == [i % 3 for i in range(2, 10)]
    assert batch.targets.limit.tolist() == batch.targets.position.tolist() == [8, 8, 8]
    assert batch.targets.at_ms.tolist() == [20_000] * 3
    assert batch.targets.offsets.tolist() == [0, 3]


@pytest.mark.parametrize("said", [10, None])
def test_what_the_user_did_afterwards_never_leaks(
    histories: LocalHistories, said: int | None
) -> None:
    append(histories, 1, range(10), at_ms=0)
    append(histories, 1, range(10, 40), at_ms=20_000)
    batch = targets(histories, Shown(at_ms=20_000, user=1, items=[11, 12], history=said))
    assert batch is not None
    assert seen_by(batch, 0) == list(range(2, 10))


@pytest.mark.parametrize("said", [0, None])
def test_a_new_user_is_asked_about_with_an_empty_history(
    histories: LocalHistories, said: int | None
) -> None:
    append(histories, 1, range(3), at_ms=20_000)
    batch = targets(histories, Shown(at_ms=20_000, user=1, items=[5], history=said))
    assert batch is not None
    assert seen_by(batch, 0) == []
    assert batch.targets.limit.tolist() == [0]


def test_histories_that_are_gone_or_overwritten_are_passed_over(histories: LocalHistories) -> None:
    append(histories, 1, range(80), at_ms=0)
    append(histories, 2, range(10), at_ms=0)
    overwritten = Shown(at_ms=90_000, user=1, items=[1], history=12)
    forgotten = Shown(at_ms=90_000, user=3, items=[1], history=5)
    held = Shown(at_ms=90_000, user=2, items=[4], history=6)
    assert targets(histories, overwritten, forgotten) is None
    batch = targets(histories, overwritten, held, forgotten)
    assert batch is not None
    assert seen_by(batch, 0) == [0, 1, 2, 3, 4, 5]
    assert batch.item_R.tolist() == [4]


def test_the_oldest_history_that_is_still_held_is_used(histories: LocalHistories) -> None:
    append(histories, 1, range(80), at_ms=0)  # 16 .. 79 are held
    batch = targets(histories, Shown(at_ms=90_000, user=1, items=[1], history=24))
    assert batch is not None
    assert seen_by(batch, 0) == list(range(16, 24))
    assert batch.seen.before_ms_E.tolist()[:2] == [-1, 16_000]  # the one before has left the ring


def test_labels_are_the_actions_that_followed_on_each_item(histories: LocalHistories) -> None:
    first = Shown(at_ms=0, user=1, items=[7, 8], history=0, acted={8: 0b10010, 9: 1})
    second = Shown(at_ms=0, user=2, items=[9], history=0, acted={9: 0b1})
    batch = targets(histories, first, second)
    assert batch is not None
    assert batch.item_R.tolist() == [7, 8, 9]
    assert batch.label_RA.tolist() == [[0, 0, 0, 0, 0], [0, 1, 0, 0, 1], [1, 0, 0, 0, 0]]
    assert batch.targets.offsets.tolist() == [0, 2, 3]


def clicked(histories: LocalHistories, user: int, item: int, at_ms: int) -> tuple[int, int, int]:
    """One click in a user's history, as a request's own action names it."""
    column = np.array([0])
    histories.append(
        Events(column + user, column + item, column, column + at_ms, column), watermark_ms=0
    )
    return item, 0, at_ms


@pytest.mark.parametrize("said", [12, None])
def test_a_click_on_the_list_does_not_reach_its_neighbours(
    histories: LocalHistories, said: int | None
) -> None:
    """Dated before the list by a clock that is behind, or counted by a list that was logged when
    the user left it: what the targets see is what they would see without the click."""
    append(histories, 1, range(10), at_ms=0)
    own = [clicked(histories, 1, 77, 19_000), clicked(histories, 1, 78, 19_500)]
    without = LocalHistories(histories.settings)
    append(without, 1, range(10), at_ms=0)
    for where in (histories, without):
        append(where, 1, range(20, 24), at_ms=30_000)
    shown = Shown(20_000, 1, [76, 77, 78], said, {77: 1, 78: 1}, own=own)
    batch = targets(histories, shown)
    plain = targets(without, Shown(20_000, 1, [76, 77, 78], 10, {77: 1, 78: 1}))
    assert batch is not None
    assert plain is not None
    assert 77 not in seen_by(batch, 0)
    # Of the window of 8 that ends with the second click, as it moves by steps of two.
    assert seen_by(batch, 0) == list(range(4, 10))
    assert seen_by(plain, 0) == list(range(2, 10))
    assert batch.seen.before_ms_E.tolist() == plain.seen.before_ms_E.tolist()[2:]
    assert torch.equal(batch.label_RA, plain.label_RA)
    leaking = targets(histories, Shown(20_000, 1, [76, 77, 78], said, {77: 1, 78: 1}))
    assert leaking is not None
    assert seen_by(leaking, 0)[-2:] == [77, 78]


def test_the_gap_after_an_own_action_does_not_tell_of_it(histories: LocalHistories) -> None:
    append(histories, 1, range(3), at_ms=0)
    own = [clicked(histories, 1, 77, 15_000)]
    append(histories, 1, range(3, 5), at_ms=16_000)
    batch = targets(histories, Shown(20_000, 1, [77], None, {77: 1}, own=own))
    assert batch is not None
    assert seen_by(batch, 0) == [0, 1, 2, 3, 4]
    assert batch.seen.before_ms_E.tolist() == [-1, 0, 1000, 2000, 16_000]


def test_where_time_decides_later_events_are_not_seen_wherever_they_stand(
    histories: LocalHistories,
) -> None:
    append(histories, 1, range(2), at_ms=0)
    clicked(histories, 1, 50, 30_000)  # dated later, and there before what follows
    append(histories, 1, range(2, 4), at_ms=5000)
    batch = targets(histories, Shown(20_000, 1, [9], None))
    assert batch is not None
    assert seen_by(batch, 0) == [0, 1, 2, 3]
    exact = targets(histories, Shown(20_000, 1, [9], 4))
    assert exact is not None
    assert seen_by(exact, 0) == [0, 1, 50, 2]  # whoever scored saw it


def test_a_correction_is_about_its_items_alone(histories: LocalHistories) -> None:
    append(histories, 1, range(4), at_ms=0)
    late = Shown(9000, 1, [8, 9], 4, {8: 0b10}, positions=[3, 99], late=True)
    batch = targets(histories, late)
    assert batch is not None
    assert batch.item_R.tolist() == [8]
    assert batch.label_RA.tolist() == [[0, 1, 0, 0, 0]]
    assert batch.counted_RA.tolist() == [[0] * 5]
    assert batch.position_R.tolist() == [3]
    assert batch.shown_P.sum() == 0


def test_batches_keep_to_the_budget_and_to_the_order(histories: LocalHistories) -> None:
    append(histories, 1, range(4), at_ms=0)
    shown = [Shown(9000, 1, [n, n + 1, n + 2], 4) for n in range(10)]
    made, unusable = Targets(WINDOW, TYPES, row_budget=15).batches(shown, histories)
    assert unusable == []
    assert [len(batch.item_R) for batch in made] == [6] * 5
    items = [item for batch in made for item in batch.item_R.tolist()]
    assert items == [item for one in shown for item in one.items]
