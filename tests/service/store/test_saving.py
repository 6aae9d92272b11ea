"""Saving in slices: the state of one moment, whatever happens while it is copied."""

from collections.abc import Callable

import pytest
import torch

from service.store import EmbeddingTable
from tests.service.store.tables import admit, at, budget_for, learn, longs, same, table

HOUR_MS = 3_600_000
SLOT = {"optimizer": "adam", "ttl_seconds": 30_000, "min_count": 2, "max_waiting": 100}


def trained(backend: str) -> EmbeddingTable:
    """Rows 1 .. 30 in use but for some that are free."""
    store = table(backend, **SLOT)
    admit(store, *list(range(30)) * 2, 77, 78)
    learn(store, {key: key - 14.5 for key in range(30)})
    store.remove(longs(3, 28, 11))
    return store


def touch(store: EmbeddingTable) -> None:
    admit(store, *range(30), 5, ms=9000)


def step(store: EmbeddingTable) -> None:
    learn(store, dict.fromkeys(range(30), 1.0))
    store.update(longs(0, 0), torch.ones(2, 4))


def grow(store: EmbeddingTable) -> None:
    admit(store, *list(range(100, 5000)) * 2)


def expire(store: EmbeddingTable) -> None:
    store.expire(10 * HOUR_MS, 1000)


def come_back(store: EmbeddingTable) -> None:
    """Rows that were free, and rows that get free now, are taken by others."""
    admit(store, 200, 200, 201, 201)
    store.remove(longs(1, 29, 200))
    admit(store, 202, 202, 29, 29, 77)


def reweigh(store: EmbeddingTable) -> None:
    store.expire(2 * 64 * 168 * HOUR_MS, 0)


def load(store: EmbeddingTable) -> None:
    store.load(table("reference", **SLOT).state())


@pytest.mark.parametrize("happens", [touch, step, grow, expire, come_back, reweigh, load])
@pytest.mark.parametrize("copied", [0, 1, 12, 30])
def test_a_saving_holds_the_moment_at_which_it_began(
    backend: str, copied: int, happens: Callable[[EmbeddingTable], None]
) -> None:
    store = trained(backend)
    expected = store.state()
    saving = store.save()
    saving.step(copied)
    happens(store)
    while not saving.step(5):
        touch(store)
    assert same(saving.state(), expected)
    assert not same(store.state(), expected)


def test_a_saving_of_a_full_table_survives_evictions(backend: str) -> None:
    slot = table(backend, optimizer="sgd").settings
    store = EmbeddingTable(slot, 7, backend, budget=budget_for(slot, rows=64))
    admit(store, *range(64))
    learn(store, {key: float(key) for key in range(64)})
    store.expire(2 * HOUR_MS, 0)
    expected = store.state()
    saving = store.save()
    for turn in range(14):
        assert len(store.admit(longs(100 + turn), at(1)).evicted.keys_M) == 1
        saving.step(5)
    assert same(saving.state(), expected)


def test_what_was_saved_goes_on_like_the_table_itself(backend: str) -> None:
    store, restored = trained(backend), table(backend, **SLOT)
    saving = store.save()
    saving.step(10)
    restored.load(saving.finish())
    for each in (store, restored):
        come_back(each)
        step(each)
        expire(each)
    assert same(restored.state(), store.state())


def test_the_state_is_what_a_saving_finishes_with_at_once(backend: str) -> None:
    store = trained(backend)
    state = store.state()
    assert same(store.save().finish(), state)
    kept = {name: tensor.clone() for name, tensor in state.items()}
    step(store)
    assert same(state, kept)


def test_a_state_can_be_had_while_another_is_saved(backend: str) -> None:
    store = trained(backend)
    saving, before = store.save(), store.state()
    step(store)
    after = store.state()
    assert same(saving.finish(), before)
    assert same(store.state(), after)


def test_one_saving_at_a_time_and_only_a_finished_one_has_a_state(backend: str) -> None:
    store = trained(backend)
    saving = store.save()
    assert not saving.step(30)
    assert not saving.finished
    with pytest.raises(RuntimeError, match="once at a time"):
        store.save()
    with pytest.raises(RuntimeError, match="30 of 31 rows"):
        saving.state()
    assert saving.step(1)
    assert saving.step(1)
    assert saving.finished
    store.save()
