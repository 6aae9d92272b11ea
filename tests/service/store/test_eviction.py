"""Eviction and refusal: what happens to new ids when the budget is spent."""

import torch
from torch import Tensor

from service.store import EmbeddingTable
from service.store.eviction import SAMPLES
from tests.service.store.tables import Other, admit, at, budget_for, learn, longs, same, table

HOUR_MS = 3_600_000


def full(backend: str, rows: int = 160, **settings: object) -> EmbeddingTable:
    """A table at its limit, all rows out of grace, row r of importance r."""
    store = table(backend, rows=rows, optimizer="sgd", **settings)
    min_count = store.settings.min_count
    admit(store, *list(range(1, rows + 1)) * min_count, ms=1000)
    store.expire(1000 + 2 * HOUR_MS, 0)
    learn(store, {key: float(key) for key in range(1, rows + 1)})
    return store


def test_a_refusing_table_refuses_counts_it_and_serves_the_others(backend: str) -> None:
    store = table(backend, rows=2, when_full="refuse", ttl_seconds=10)
    assert admit(store, 1, 2, 3, 1, 3, 4) == [1, 2, 0, 1, 0, 0]
    assert (len(store), store.refused, store.evicted) == (2, {"full": 3}, 0)
    assert admit(store, 2, ms=9000) == [2]
    store.expire(12_000, 100)
    assert admit(store, 3, 4) == [1, 0]
    assert store.refused == {"full": 4}


def test_an_earned_row_that_was_refused_is_given_when_there_is_room(backend: str) -> None:
    store = table(backend, rows=1, when_full="refuse", min_count=2, ttl_seconds=10)
    assert admit(store, 1, 1, 2, 2, 2) == [0, 1, 0, 0, 0]
    assert (store.refused, store.waiting) == ({"full": 2}, 1)
    store.expire(20_000, 100)
    assert admit(store, 2, ms=20_000) == [1]
    assert store.waiting == 0
    assert store.decayed_counts(longs(1)).tolist() == [2]


def test_the_least_important_rows_leave_for_new_ids(backend: str) -> None:
    store = full(backend)
    admitted = store.admit(longs(901, 902, 901), at(3, 2 * HOUR_MS))
    assert admitted.evicted.keys_M.tolist() == [1, 2]
    assert admitted.evicted.rows_M.tolist() == [1, 2]
    # The row freed last is taken first.
    assert admitted.rows_N.tolist() == [2, 1, 2]
    assert admitted.new_rows_M.tolist() == [2, 1]
    assert (len(store), store.evicted, store.refused) == (160, 2, {})


def test_no_more_leave_than_there_are_rows_missing(backend: str) -> None:
    store = full(backend)
    store.remove(longs(100, 101, 102))
    assert store.admit(torch.arange(900, 905), at(5)).evicted.keys_M.tolist() == [1, 2]
    assert len(store) == 160


def test_importance_is_decayed_count_times_gradient_norm(backend: str) -> None:
    store = full(backend)
    # Row 1 has the smallest gradients, but by now by far the largest count.
    admit(store, *[1] * 500, ms=2 * HOUR_MS)
    assert store.admit(longs(901), at(1, 2 * HOUR_MS)).evicted.keys_M.tolist() == [2]


def test_rows_in_grace_stay_however_unimportant(backend: str) -> None:
    store = full(backend, grace_seconds=3600)
    store.remove(longs(1, 2))
    admit(store, 901, 902, ms=1000 + 2 * HOUR_MS)
    store.expire(1000 + 3 * HOUR_MS, 0)
    assert store.admit(longs(903), at(1)).evicted.keys_M.tolist() == [3]
    store.expire(1001 + 3 * HOUR_MS, 0)
    # The unimportant ones of the first round, behind the cursor, have their turn again.
    evicted = [*(int(store.admit(longs(k), at(1)).evicted.keys_M) for k in range(904, 913))]
    assert {901, 902} & set(evicted) == {901, 902}


def test_where_all_rows_are_in_grace_new_ids_are_spared_theirs(backend: str) -> None:
    store = table(backend, rows=3)
    admit(store, 1, 2, 3)
    assert admit(store, 4, 1, 4, 5) == [0, 1, 0, 0]
    assert (store.refused, store.evicted, len(store)) == ({"spared": 3}, 0, 3)


def test_rows_of_the_batch_itself_are_not_taken(backend: str) -> None:
    store = full(backend)
    admitted = store.admit(longs(1, 901, 3, 902), at(4, 2 * HOUR_MS))
    assert admitted.evicted.keys_M.tolist() == [2, 4]
    assert admitted.rows_N.tolist() == [1, 4, 3, 2]


def test_whoever_finds_no_room_after_an_eviction_is_refused(backend: str) -> None:
    store = full(backend)
    admitted = store.admit(torch.arange(900, 1000), at(100))
    # A sixteenth of the rows, up to the threshold, may leave at once.
    assert admitted.evicted.keys_M.tolist() == list(range(1, 11))
    assert (admitted.rows_N > 0).tolist() == [True] * 10 + [False] * 90
    assert store.refused == {"spared": 90}


def test_the_unknown_row_is_never_evicted(backend: str) -> None:
    store = full(backend)
    for turn in range(40):
        store.expire((turn + 3) * 2 * HOUR_MS, 0)
        evicted = store.admit(torch.arange(5) + 1000 + 5 * turn, at(5, turn)).evicted
        assert len(evicted.rows_M) == 5
        assert (evicted.rows_M > 0).all()


def test_large_tables_go_by_samples_and_free_more_than_they_must() -> None:
    store = full("numba", rows=3 * SAMPLES)
    keys_M = store.admit(longs(99_999), at(1)).evicted.keys_M
    assert len(keys_M) == 3 * SAMPLES // 128
    assert (keys_M <= 3 * SAMPLES / 16 * 1.15).all()
    assert store.admit(longs(99_998), at(1)).evicted.keys_M.tolist() == []


def test_eviction_goes_on_alike_after_a_restart_and_on_every_backend() -> None:
    def run(stores: list[EmbeddingTable], turns: range) -> list[list[Tensor]]:
        return [
            [store.admit(torch.arange(3) + 5000 + 3 * turn, at(3)).evicted.keys_M for turn in turns]
            for store in stores
        ]

    stores = [full("reference"), full("numba")]
    first, second = run(stores, range(5))
    assert all(map(torch.equal, first, second))
    restored = table(rows=160, optimizer="sgd")
    restored.load(stores[0].state())
    runs = run([*stores, restored], range(5, 15))
    assert all(map(torch.equal, runs[0], runs[1]))
    assert all(map(torch.equal, runs[0], runs[2]))
    assert same(restored.state(), stores[0].state())


def test_another_holder_of_the_budget_leaves_less_room(backend: str) -> None:
    store, others = table(backend), Other()
    slot = store.settings
    budget = budget_for(slot, rows=10, when_full="refuse")
    budget.join(others)
    shared = EmbeddingTable(slot, 7, backend, budget=budget)
    others.charged_bytes = int(budget.left) // 2
    assert sum(row > 0 for row in admit(shared, *range(10))) == 5
