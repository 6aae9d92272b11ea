"""Target rows: what the scoring of an impression saw, and nothing that came after it."""

import numpy as np
import pytest

from service.histories.local import Events, LocalHistories
from service.histories.settings import HistorySettings
from trainer.joining import Shown
from trainer.targets import TargetBatch, target_batch

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
