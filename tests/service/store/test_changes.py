"""The set of changes since a version: complete, bounded, and made whole again when one fails."""

import random

import torch
from torch import Tensor

from kernels.key_index import RESERVED_KEY
from service.store import Changes, EmbeddingTable, TableDelta
from tests.service.store.tables import DIM, admit, learn, longs, table

Replica = dict[int, Tensor]


def apply(replica: Replica, delta: TableDelta) -> None:
    for key in delta.changes.removed_keys_T.tolist():
        replica.pop(key, None)
    replica.update(zip(delta.changes.keys_M.tolist(), delta.columns["vectors"], strict=True))


def expect_replica(replica: Replica, store: EmbeddingTable) -> None:
    keys = [RESERVED_KEY, *store.live_keys().tolist()]
    assert replica.keys() == set(keys)
    vectors_RD = store.gather(torch.cat([longs(0), store.live_rows()]))
    assert all(map(torch.equal, (replica[key] for key in keys), vectors_RD))


def listed(delta: TableDelta) -> tuple[list[int], list[int]]:
    """Keys that have changed, after the unknown row's, and keys that were removed."""
    keys, removed = delta.changes.keys_M.tolist(), delta.changes.removed_keys_T.tolist()
    assert (keys[0], int(delta.changes.rows_M[0])) == (RESERVED_KEY, 0)
    return keys[1:], removed


def test_what_was_touched_or_moved_has_changed_and_nothing_else(backend: str) -> None:
    store = table(backend, optimizer="sgd")
    admit(store, 1, 2, 3)
    assert listed(store.cut()) == ([1, 2, 3], [])
    assert listed(store.cut()) == ([], [])
    admit(store, 2)
    learn(store, {3: 1.0})
    store.lookup(longs(1))
    store.expire(10_000, 10)
    delta = store.cut()
    assert (delta.changes.rows_M.tolist(), listed(delta)) == ([0, 2, 3], ([2, 3], []))
    assert delta.changes.new_M.tolist() == [False, False, False]
    store.update(longs(0), torch.ones(1, DIM))
    delta = store.cut()
    assert listed(delta) == ([], [])
    assert torch.equal(delta.columns["vectors"][0], store.gather(longs(0))[0])


def test_a_known_id_that_loses_its_row_leaves_a_tombstone_until_the_next_version(
    backend: str,
) -> None:
    store = table(backend, ttl_seconds=1)
    admit(store, 1, 2)
    store.cut()
    learn(store, {1: 1.0})
    store.expire(5000, 10)
    assert listed(store.cut()) == ([], [1, 2])
    assert listed(store.cut()) == ([], [])


def test_an_evicted_id_leaves_a_tombstone_and_its_row_is_its_heirs(backend: str) -> None:
    store = table(backend, rows=2, grace_seconds=1)
    admit(store, 1, 2)
    store.cut()
    store.expire(5000, 0)
    assert admit(store, 3, 2, ms=5000) == [1, 2]
    assert listed(store.cut()) == ([3, 2], [1])


def test_an_id_born_and_removed_between_versions_leaves_no_trace(backend: str) -> None:
    store = table(backend)
    store.cut()
    admit(store, 1)
    store.remove(longs(1))
    assert listed(store.cut()) == ([], [])


def test_an_id_that_returns_is_removed_and_written_anew(backend: str) -> None:
    store = table(backend)
    admit(store, 1)
    store.cut()
    store.remove(longs(1))
    admit(store, 1)
    delta = store.cut()
    assert listed(delta) == ([1], [1])
    assert delta.changes.new_M.tolist() == [False, True]
    store.remove(longs(1))
    admit(store, 1)
    store.remove(longs(1))
    assert listed(store.cut()) == ([], [1])


def test_changes_of_a_failed_version_are_in_the_next(backend: str) -> None:
    store = table(backend)
    admit(store, 1, 2, 3)
    store.cut()
    store.remove(longs(1))
    learn(store, {2: 1.0})
    failed = store.cut().changes
    learn(store, {3: 1.0})
    store.remove(longs(2))
    store.put_back(failed)
    assert listed(store.cut()) == ([3], [1, 2])


def test_a_whole_cut_holds_all_and_if_it_fails_what_had_changed(backend: str) -> None:
    store = table(backend)
    admit(store, 1, 2, 3)
    store.cut()
    store.remove(longs(1))
    learn(store, {2: 1.0})
    whole = store.cut(whole=True)
    assert listed(whole) == ([2, 3], [])
    assert whole.changes.new_M.tolist() == [True] * 3
    store.remove(longs(3))
    store.put_back(whole.changes)
    assert listed(store.cut()) == ([2], [1, 3])


def test_counts_that_are_weighed_anew_have_changed(backend: str) -> None:
    store = table(backend, half_life_seconds=1)
    admit(store, 1, 2)
    store.cut()
    store.remove(longs(1))
    store.expire(63_000, 0)
    assert listed(store.cut()) == ([], [1])
    store.expire(1000 + 64_000, 0)
    assert listed(store.cut()) == ([2], [])
    restored = table(backend, half_life_seconds=2)
    restored.load(store.state())
    delta = restored.cut()
    assert listed(delta) == ([2], [])
    assert delta.changes.new_M.tolist() == [False, False]
    restored.remove(longs(2))
    assert listed(restored.cut()) == ([], [2])


def test_what_only_a_failed_version_knew_leaves_no_tombstone(backend: str) -> None:
    store = table(backend)
    store.cut()
    admit(store, 1)
    store.put_back(store.cut().changes)
    store.remove(longs(1))
    assert listed(store.cut()) == ([], [])


def test_a_version_that_fails_after_its_successor_was_taken_loses_nothing(backend: str) -> None:
    store, replica = table(backend), Replica()
    admit(store, 1, 2, 3)
    apply(replica, store.cut())
    store.remove(longs(1))
    admit(store, 4)
    failed = store.cut().changes
    admit(store, 1)
    learn(store, {4: 1.0})
    apply(replica, store.cut())
    store.put_back(failed)
    store.remove(longs(4))
    delta = store.cut()
    # 1 has returned: its old tombstone must not take it away. 4 is known to the successor.
    assert listed(delta) == ([1], [1, 4])
    apply(replica, delta)
    expect_replica(replica, store)


def test_replicas_follow_through_failures_in_any_order(backend: str) -> None:
    for seed in range(6):
        draw, store, replica = random.Random(seed), table(backend, optimizer="sgd"), Replica()
        failed: list[Changes] = []
        for _ in range(150):
            keys = draw.choices(range(12), k=3)
            match draw.choice(["admit", "learn", "remove", "take", "fail", "put back"]):
                case "admit":
                    admit(store, *keys)
                case "learn":
                    learn(store, dict.fromkeys(keys, draw.random()))
                case "remove":
                    store.remove(longs(*keys))
                case "take":
                    apply(replica, store.cut())
                case "fail":
                    failed.append(store.cut().changes)
                case "put back":
                    draw.shuffle(failed)
                    store.put_back(failed.pop()) if failed else None
        for changes in failed:
            store.put_back(changes)
        apply(replica, store.cut())
        expect_replica(replica, store)


def test_a_loaded_table_has_not_changed(backend: str) -> None:
    store = table(backend)
    admit(store, 1, 2)
    restored = table(backend)
    admit(restored, 8)
    restored.load(store.state())
    assert listed(restored.cut()) == ([], [])
    restored.remove(longs(1))
    assert listed(restored.cut()) == ([], [1])


def test_tombstones_are_bounded_by_the_rows_of_the_last_version(backend: str) -> None:
    store = table(backend)
    admit(store, *range(50))
    store.cut()
    for turn in range(20):
        store.remove(torch.arange(50))
        admit(store, *range(50), ms=turn)
    assert store.bytes_by_part()["tombstones"] == 50 * 8
