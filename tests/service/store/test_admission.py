"""Admission: by count, exact at any threshold, and by chance."""

import pytest
import torch

from service.store import EmbeddingTable
from tests.service.store.tables import admit, at, longs, same, table

WEEK_MS = 7 * 86_400_000


@pytest.mark.parametrize("min_count", [2, 16, 1000])
def test_an_id_has_a_row_from_its_min_count_th_occurrence_on(backend: str, min_count: int) -> None:
    store = table(backend, min_count=min_count)
    assert admit(store, *[8] * (min_count - 2), 9) == [0] * (min_count - 1)
    assert (len(store), store.waiting) == (0, 1 + (min_count > 2))
    assert admit(store, 8, 8, 8) == [0, 1, 1]
    assert (len(store), store.waiting) == (1, 1)
    store.expire(1000, 0)
    assert store.decayed_counts(longs(1)).tolist() == [min_count + 1]


def test_rows_are_numbered_by_earning_occurrence_not_by_first_sight(backend: str) -> None:
    assert admit(table(backend, min_count=2), 8, 9, 9, 8, 8) == [0, 0, 1, 2, 2]
    assert admit(table(backend, min_count=3), 8, 9, 8, 8, 9, 8) == [0, 0, 0, 1, 0, 1]


def test_min_count_one_keeps_no_counters(backend: str) -> None:
    store = table(backend)
    admit(store, 1)
    assert (store.waiting, store.bytes_by_part()["waiting"]) == (0, 0)
    assert not any(name.startswith("waiting") for name in store.state())


def test_counts_survive_a_checkpoint(backend: str) -> None:
    store = table(backend, min_count=40)
    store.expire(0, 0)
    admit(store, *[5] * 38, *[6] * 38)
    store.expire(WEEK_MS, 0)
    admit(store, 6)
    restored = table(backend, min_count=40)
    restored.load(store.state())
    assert same(restored.state(), store.state())
    assert admit(restored, 5, 5, 6) == [0, 1, 2]


def test_a_count_is_forgotten_after_one_to_two_periods_without_an_occurrence(
    backend: str,
) -> None:
    store = table(backend, min_count=3, waiting_seconds=10)
    store.expire(7000, 0)
    admit(store, 1, 2, 3)
    store.expire(16_999, 0)
    admit(store, 2)
    store.expire(17_000, 0)
    admit(store, 3)
    store.expire(26_999, 0)
    assert store.waiting == 3
    store.expire(27_000, 0)
    assert store.waiting == 1
    assert admit(store, 1, 2, 3) == [0, 0, 1]
    store.expire(60_000, 0)
    assert (store.waiting, store.rotations_early) == (0, 0)


def test_rotation_comes_early_when_too_many_wait_and_is_counted(backend: str) -> None:
    store = table(backend, min_count=3, max_waiting=8)
    admit(store, 1, 1, 2, 3, 4)
    assert (store.waiting, store.rotations_early) == (4, 0)
    # 5 finds the current generation full; 1 comes over with its count, 2 does not come again.
    admit(store, 5)
    assert (store.waiting, store.rotations_early) == (5, 1)
    assert admit(store, 1, 3) == [1, 0]
    admit(store, *range(10, 13))
    assert store.rotations_early == 2
    assert admit(store, 2, 2, 3, 3) == [0, 0, 2, 2]
    assert store.waiting <= 8


def test_the_id_that_makes_others_rotate_keeps_its_count(backend: str) -> None:
    store = table(backend, min_count=3, max_waiting=4)
    admit(store, 1, 1, 2, 3, 4)
    # 1 waits in the older generation, and finds the current one full.
    assert admit(store, 1) == [1]
    assert store.rotations_early == 2


def test_early_rotations_come_where_they_would_one_by_one(backend: str) -> None:
    generator = torch.Generator().manual_seed(5)
    stream = (torch.rand(2000, generator=generator) ** 3 * 400).long()
    whole, single = (table(backend, min_count=1000, max_waiting=50) for _ in range(2))
    whole.admit(stream, at(2000))
    for key in stream:
        single.admit(key.view(1), at(1))
    assert same(whole.state(), single.state())
    assert whole.rotations_early > 20


def test_an_id_that_earns_its_row_in_a_flood_reads_it_from_then_on(backend: str) -> None:
    store = table(backend, min_count=2, max_waiting=4)
    rows = admit(store, 7, 7, *range(100, 110), 7)
    assert rows == [0, 1, *[0] * 10, 1]
    assert store.rotations_early > 1


def test_by_chance_the_share_is_the_probability(backend: str) -> None:
    store = table(backend, probability=0.3)
    keys = torch.arange(4000)
    for turn, expected in ((1, 0.3), (2, 1 - 0.7**2), (3, 1 - 0.7**3)):
        store.admit(keys, at(4000, turn))
        assert abs(len(store) / 4000 - expected) < 0.02
    assert store.waiting == 0


def test_by_chance_later_occurrences_of_a_batch_read_the_row(backend: str) -> None:
    def rows(times: list[int]) -> list[int]:
        store = table(backend, probability=0.2)
        found: list[int] = store.admit(longs(*[5] * len(times)), longs(*times)).rows_N.tolist()
        return found

    times = list(range(40))
    found = rows(times)
    assert found == sorted(found)
    assert 0 < sum(found) < 40
    # A draw is of key and time alone: the first time that succeeds does so by itself.
    assert rows([times[found.index(1)]]) == [1]


def test_a_sure_chance_admits_everybody(backend: str) -> None:
    assert admit(table(backend, probability=1), *range(50)) == list(range(1, 51))
    assert sum(admit(table(backend, probability=1e-30), *range(50))) == 0


def test_chance_depends_on_the_seed() -> None:
    slot = table(probability=0.5).settings
    shares = [
        EmbeddingTable(slot, seed).admit(torch.arange(50), at(50)).rows_N > 0 for seed in (1, 2)
    ]
    assert not torch.equal(*shares)
