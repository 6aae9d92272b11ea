"""Original ids: the first id of a key owns it, and nobody ever reads another's."""

import pytest
import torch

from service.actions import Id
from service.store.ids import OriginalIds


def keys(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def put(ids: OriginalIds, *owned: tuple[int, Id]) -> list[bool]:
    conflicts: list[bool] = ids.put(keys(*(k for k, _ in owned)), [i for _, i in owned]).tolist()
    return conflicts


def test_ids_come_back_as_they_were() -> None:
    ids = OriginalIds()
    assert put(ids, (5, 5), (-9, "shoe"), (5, 5), (-9, "shoe")) == [False] * 4
    assert (ids.get(5), ids.get(-9), ids.get(1)) == (5, "shoe", None)
    assert (len(ids), ids.collisions) == (2, 0)


def test_a_second_id_with_the_same_key_is_a_conflict_and_is_counted() -> None:
    ids = OriginalIds()
    assert put(ids, (7, "first"), (7, "second")) == [False, True]
    assert put(ids, (7, "second"), (7, "first"), (7, 7)) == [True, False, True]
    assert ids.get(7) == "first"
    assert ids.collisions == 3


def test_the_string_of_an_integer_is_another_id() -> None:
    ids = OriginalIds()
    assert put(ids, (7, 7), (7, "7")) == [False, True]


def test_a_removed_key_is_free_for_the_next_id() -> None:
    ids = OriginalIds()
    empty = ids.nbytes
    put(ids, (7, "first"), (8, 8))
    ids.remove(keys(7, 99))
    assert put(ids, (7, "second")) == [False]
    assert ids.get(7) == "second"
    ids.remove(keys(7, 8))
    assert len(ids) == 0
    assert ids.nbytes <= empty + 1000


def test_saved_ids_continue_as_if_never_stopped() -> None:
    ids = OriginalIds()
    put(ids, (1, "ä\0b"), (2, 2**63 - 1), (3, -5), (1, "other"))
    ids.remove(keys(2))
    put(ids, (2, "again"))
    restored = OriginalIds()
    restored.load(ids.state())
    for each in (ids, restored):
        assert put(each, (1, "other"), (4, "new")) == [True, False]
    assert restored.collisions == ids.collisions == 2
    assert restored.nbytes == ids.nbytes
    state, other = ids.state(), restored.state()
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_nothing_can_be_saved() -> None:
    restored = OriginalIds()
    restored.load(OriginalIds().state())
    assert len(restored) == 0


def test_keys_and_ids_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="2 keys came with 1 ids"):
        OriginalIds().put(keys(1, 2), ["a"])
