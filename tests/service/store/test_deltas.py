"""Deltas: state by state what the table was, as large as what has changed, and copies."""

import random

import pytest
import torch
from torch import Tensor

from kernels.key_index import RESERVED_KEY
from service.store import EmbeddingTable, TableDelta, folded
from service.store.packing import packed, unpacked
from tests.service.store.tables import admit, at, learn, longs, same, table

State = dict[str, Tensor]

SLOTS: dict[str, dict[str, object]] = {
    "evicting": {"optimizer": "adam", "rows": 40, "grace_seconds": 0, "min_count": 2},
    "expiring": {"ttl_seconds": 5, "half_life_seconds": 0.05, "min_count": 3, "max_waiting": 40},
    "growing": {"optimizer": "adagrad"},
}
"""Half-lives so short that the landmark moves, room for so few that wait that they rotate early."""


def act(store: EmbeddingTable, draw: random.Random, now_ms: int) -> list[list[int]]:
    """One of all operations; what it answered."""
    keys = longs(*(draw.randrange(120) for _ in range(draw.choice([1, 5, 30]))))
    match draw.choice(["admit", "admit", "learn", "late", "remove", "expire"]):
        case "admit":
            admitted = store.admit(keys, at(len(keys), now_ms))
            return [admitted.rows_N.tolist(), admitted.evicted.rows_M.tolist()]
        case "learn":
            learn(store, dict.fromkeys(keys.tolist(), draw.random()))
        case "late":  # a row that may be free by now
            row = draw.randrange(store.vectors_RD.shape[0])
            store.update(longs(row), torch.ones(1, 4))
        case "remove":
            return [store.remove(keys[:3]).rows_M.tolist()]
        case "expire":
            return [store.expire(now_ms, draw.choice([3, 1000])).rows_M.tolist()]
    return []


def expect_alike(store: EmbeddingTable, other: EmbeddingTable, now_ms: int) -> None:
    """Both answer the same for some time."""
    one, two = random.Random(now_ms), random.Random(now_ms)
    for at_ms in range(now_ms, now_ms + 4000, 100):
        assert act(store, one, at_ms) == act(other, two, at_ms)
    assert same(store.state(), other.state())


def bytes_of(delta: TableDelta) -> int:
    return sum(tensor.nbytes for tensor in delta.tensors.values())


def moved(store: EmbeddingTable, keys: Tensor) -> TableDelta:
    """The delta of one step of training."""
    rows_N = store.admit(keys, at(len(keys))).rows_N
    store.update(rows_N, torch.ones(len(rows_N), 4))
    return store.cut()


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("seed", range(4))
def test_folded_deltas_are_the_state_and_go_on_like_it(backend: str, slot: str, seed: int) -> None:
    draw, store, now_ms = random.Random(seed), table(backend, **SLOTS[slot]), 10_000
    chain: State = {}
    for turn in range(60):
        for _ in range(draw.choice([0, 1, 4, 12])):
            now_ms += draw.choice([0, 50, 400, 3000])
            act(store, draw, now_ms)
        if draw.random() < 0.2:
            store.put_back(store.cut(whole=draw.random() < 0.5).changes)
            act(store, draw, now_ms)
        whole = draw.random() < 0.1
        chain = folded({} if whole else chain, store.cut(whole).tensors)
        assert same(chain, store.state())
        if turn % 20 == 10:
            restored = table(backend, **SLOTS[slot])
            restored.load(chain)
            expect_alike(store, restored, now_ms)
            store, now_ms = restored, now_ms + 4000  # the next delta's parent is the chain


def test_many_deltas_fold_at_once_as_one_by_one(backend: str) -> None:
    draw, store = random.Random(0), table(backend, **SLOTS["evicting"])
    deltas = []
    for turn in range(30):
        for _ in range(5):
            act(store, draw, 1000 * turn)
        deltas.append(store.cut().tensors)
    assert same(folded({}, *deltas), store.state())
    assert same(folded(folded({}, *deltas[:7]), *deltas[7:]), store.state())


def test_a_delta_is_as_large_as_what_has_changed() -> None:
    store = table(min_count=3, max_waiting=500_000)
    store.admit(torch.arange(200_000).repeat(3), at(600_000))
    store.admit(torch.arange(200_000, 300_000), at(100_000))
    whole = bytes_of(store.cut())
    assert len(store) == 200_000
    assert store.waiting == 100_000
    delta = moved(store, torch.arange(0, 300_000, 100))  # a hundredth of all
    assert len(delta.changes.rows_M) == 2001
    assert len(delta.tensors["touched.keys"]) == 1000
    assert bytes_of(delta) < 0.012 * whole
    store.remove(torch.arange(0, 200_000, 50))
    store.cut()
    # Those on top of the free stack are taken; the others are not written again.
    taken = moved(store, torch.arange(400_000, 400_100).repeat(3))
    assert (len(taken.changes.rows_M), len(taken.tensors["free.tail"])) == (101, 0)
    store.remove(longs(400_001, 400_002))
    assert len(store.cut().tensors["free.tail"]) == 2
    assert bytes_of(store.cut()) < 1000


def test_a_delta_is_a_copy(backend: str) -> None:
    store = table(backend, min_count=2)
    admit(store, 1, 1, 2, 2, 3)
    store.remove(longs(2))
    delta = store.cut()
    before = {name: tensor.clone() for name, tensor in delta.tensors.items()}
    admit(store, 1, 3, 4, 4, ms=5000)
    learn(store, {1: 1.0})
    store.remove(longs(1))
    state = folded({}, delta.tensors)
    folded(state, store.cut().tensors)
    assert same(delta.tensors, before)


def test_columns_are_those_of_the_changed_rows(backend: str) -> None:
    store = table(backend, optimizer="adam")
    admit(store, 1, 2, 3)
    store.cut()
    learn(store, {3: 1.0, 1: 2.0})
    delta, state = store.cut(), store.state()
    assert delta.changes.rows_M.tolist() == [0, 1, 3]
    assert {f"rows.{name}" for name in delta.columns} == {n for n in state if n[:5] == "rows."}
    for name, column in delta.columns.items():
        assert torch.equal(column, state[f"rows.{name}"][[0, 1, 3]])


def test_what_a_late_update_left_in_a_freed_row_is_in_no_state(backend: str) -> None:
    store = table(backend)
    admit(store, 1, 2)
    store.cut()
    store.remove(longs(2))
    store.update(longs(2), torch.ones(1, 4))
    assert not store.state()["rows.vectors"][2].any()
    store.update(longs(2), torch.ones(1, 4))
    assert store.cut().changes.keys_M.tolist() == [RESERVED_KEY]
    assert not store.vectors_RD[2].any()


def test_arrays_are_reused_while_they_do_not_grow() -> None:
    store = table()
    admit(store, 1, 2, 3)
    state = folded({}, store.cut().tensors)
    memory = {name: state[name].data_ptr() for name in ("rows.vectors", "index.keys")}
    learn(store, {2: 1.0})
    state = folded(state, store.cut().tensors)
    assert {name: state[name].data_ptr() for name in memory} == memory
    admit(store, 4)
    assert same(folded(state, store.cut().tensors), store.state())


def touched(store: EmbeddingTable) -> tuple[list[tuple[int, ...]], int]:
    """(key, current count, older count) of a cut, and its rotations."""
    tensors = store.cut().tensors
    names = ("keys", "current", "older")
    columns = [tensors[f"touched.{name}"].tolist() for name in names]
    return list(zip(*columns, strict=True)), int(tensors["touched.rotations"])


def waiting(backend: str) -> EmbeddingTable:
    """1 .. 9 wait, 1 .. 3 of them in the older generation."""
    store = table(backend, min_count=3, waiting_seconds=1)
    store.expire(0, 0)
    admit(store, 1, 2, 2, 3)
    store.expire(1000, 0)
    admit(store, *range(4, 10))
    return store


def test_ids_that_wait_are_written_when_they_have_changed(backend: str) -> None:
    store = waiting(backend)
    new = [(key, 1, 0) for key in range(4, 10)]
    assert touched(store) == ([(1, 0, 1), (2, 0, 2), (3, 0, 1), *new], 1)
    admit(store, 1, 5, 20)
    assert touched(store) == ([(1, 2, 0), (5, 2, 0), (20, 1, 0)], 0)
    admit(store, 1)  # which earns its row
    store.remove(longs(2))
    store.expire(2000, 0)
    admit(store, 6)
    assert touched(store) == ([(1, 0, 0), (2, 0, 0), (6, 2, 0)], 1)
    store.expire(9000, 0)
    assert touched(store) == ([], 2)
    assert store.waiting == 0


def test_all_ids_that_wait_are_written_if_more_were_touched(backend: str) -> None:
    store = waiting(backend)
    store.cut()
    admit(store, *range(1000, 1005))
    store.remove(torch.arange(1000))
    assert touched(store) == ([(key, 1, 0) for key in range(1000, 1005)], 2)


def test_touched_keys_take_no_more_memory_than_those_that_wait() -> None:
    store = table(min_count=2)
    for _ in range(20):
        store.remove(torch.arange(3000))
    parts = store.bytes_by_part()
    empty = table(min_count=2).bytes_by_part()
    assert parts["waiting"] - empty["waiting"] <= 4096 * 8
    admit(store, 5, 5, 6)
    assert same(folded({}, store.cut().tensors), store.state())


def test_after_a_failure_the_next_delta_relies_on_little(backend: str) -> None:
    store = waiting(backend)
    admit(store, *range(30, 40), *range(30, 40), *range(30, 40))
    store.remove(torch.arange(30, 35))
    parent = folded({}, store.cut().tensors)
    admit(store, 31, 31, 31, 4)
    failed = store.cut()
    store.remove(longs(36))
    store.put_back(failed.changes)
    admit(store, 4)
    delta = store.cut()
    assert int(delta.tensors["free.kept"]) == 0
    assert int(delta.tensors["touched.rotations"]) == 2
    assert same(folded(parent, delta.tensors), store.state())


def test_ids_no_longer_wait_in_a_table_that_counts_nobody(backend: str) -> None:
    parent = waiting(backend).state()
    store = table(backend)
    store.load(parent)
    admit(store, 5)
    assert same(folded(parent, store.cut().tensors), store.state())
    counting = waiting(backend)
    counting.load(store.state())
    admit(counting, 7)
    assert counting.waiting == 1
    assert same(folded(store.state(), counting.cut().tensors), counting.state())


def test_a_table_knows_what_it_was_loaded_from_and_nothing_of_before(backend: str) -> None:
    store = waiting(backend)
    admit(store, *[30, 31, 32] * 3)
    store.remove(longs(31, 30))
    state = store.state()
    used = waiting(backend)
    admit(used, *[40, 41, 42, 43] * 3)
    used.remove(longs(40, 41, 42))
    used.load(state)
    delta = used.cut()
    assert (int(delta.tensors["free.kept"]), len(delta.tensors["free.tail"])) == (2, 0)
    assert len(delta.tensors["touched.keys"]) == int(delta.tensors["touched.rotations"]) == 0
    assert same(folded(state, delta.tensors), store.state())


def test_packed_tensors_come_out_as_they_went_in() -> None:
    tensors = {
        "bytes": torch.tensor([1, 2, 3], dtype=torch.uint8),
        "longs": torch.tensor([[1, -1], [2**62, 3]]).T,
        "flags": torch.tensor([True, False]),
        "strided": torch.arange(10, dtype=torch.int32)[::3],
        "nothing": torch.empty(0, 4),
        "floats": torch.tensor([[0.5], [-0.0]]),
        "one": torch.tensor(7),
    }
    assert same(unpacked(packed(tensors), tensors), tensors)
