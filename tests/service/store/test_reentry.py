"""Re-entry: an id that comes back starts like one never seen, whatever its row held before."""

import pytest
import torch

from service.store import EmbeddingTable
from tests.service.store.tables import DIM, admit, at, fresh, learn, longs, table

NOW_MS = 20_000


def bytes_of(store: EmbeddingTable, row: int) -> dict[str, bytes]:
    state = store.state()
    return {name: t[row].numpy().tobytes() for name, t in state.items() if name[:5] == "rows."}


def lose_by_expiry(store: EmbeddingTable) -> None:
    store.expire(NOW_MS, 100)


def lose_by_erasure(store: EmbeddingTable) -> None:
    store.expire(NOW_MS, 0)
    store.remove(longs(1, 2))


def lose_by_eviction(store: EmbeddingTable) -> None:
    store.expire(NOW_MS, 0)
    evicted = [admit_until_earned(store, key) for key in (3, 4)]
    assert evicted == [[1], [2]]
    store.remove(longs(3, 4))


def admit_until_earned(store: EmbeddingTable, key: int) -> list[int]:
    count = store.settings.min_count
    admitted = store.admit(longs(*[key] * count), at(count, NOW_MS))
    evicted: list[int] = admitted.evicted.keys_M.tolist()
    return evicted


@pytest.mark.parametrize("lose", [lose_by_expiry, lose_by_erasure, lose_by_eviction])
@pytest.mark.parametrize("min_count", [1, 3])
@pytest.mark.parametrize("optimizer", ["adagrad", "adam", "frequency_sgd"])
def test_a_readmitted_id_is_bit_for_bit_one_never_seen(
    backend: str, optimizer: str, min_count: int, lose: object
) -> None:
    settings = {"optimizer": optimizer, "min_count": min_count, "max_waiting": 10}
    store = table(backend, rows=2, ttl_seconds=10, grace_seconds=1, **settings)
    for key in (1, 2):
        admit(store, *[key] * 9)
    for turn in range(3):
        learn(store, {1: turn - 0.5, 2: 1.0 + turn})
    lose(store)  # type: ignore[operator]
    assert (len(store), store.waiting) == (0, 0)
    # The row freed last is taken first: id 1 lands in the row of id 2 (or of 4, that had it).
    assert admit(store, *[1] * min_count, ms=NOW_MS)[-1] == 2
    assert torch.equal(store.gather(longs(2))[0], fresh(1))
    other = table(backend, ttl_seconds=10, **settings)
    admit(other, 9, ms=1000)
    other.expire(NOW_MS, 0)
    admit(other, *[1] * min_count, ms=NOW_MS)
    assert bytes_of(store, 2) == bytes_of(other, int(other.lookup(longs(1))))


def test_an_id_that_returns_is_counted_from_the_start_before_it_earns_a_row(backend: str) -> None:
    store = table(backend, min_count=3, ttl_seconds=1)
    admit(store, 1, 1, 1)
    store.expire(10_000, 10)
    assert admit(store, 1, 1, 1, ms=10_000) == [0, 0, 1]


def test_an_update_that_comes_after_its_row_was_freed_reaches_no_later_id(backend: str) -> None:
    store, other = table(backend), table(backend)
    (row,) = admit(store, 1)
    store.cut()
    store.remove(longs(1))
    store.update(longs(row), torch.ones(1, DIM))
    assert store.cut().changes.rows_M.tolist() == [0]
    store.update(longs(row), torch.ones(1, DIM))
    assert admit(store, 2) == admit(other, 2) == [row]
    assert bytes_of(store, row) == bytes_of(other, row)
