"""One slot's table: rows, keys and batches, while nothing is counted, expires or is evicted."""

import pytest
import torch

from kernels.key_index import RESERVED_KEY
from service.errors import ModelMismatch
from service.store.settings import SlotSettings
from tests.service.store.tables import DIM, FOREVER_MS, admit, at, fresh, learn, longs, same, table


def test_ids_get_rows_from_one_in_order_of_arrival(backend: str) -> None:
    store = table(backend)
    admitted = store.admit(longs(30, 10, 30, 20), at(4))
    assert admitted.rows_N.tolist() == [1, 2, 1, 3]
    assert admitted.new_rows_M.tolist() == [1, 2, 3]
    assert len(admitted.evicted.rows_M) == 0
    assert store.keys_of(torch.arange(4)).tolist() == [RESERVED_KEY, 30, 10, 20]
    assert store.live_rows().tolist() == [1, 2, 3]
    assert store.live_keys().tolist() == [30, 10, 20]
    assert len(store) == 3


def test_reading_an_id_without_a_row_changes_nothing(backend: str) -> None:
    store = table(backend)
    admit(store, 5)
    before = store.state()
    assert store.lookup(longs(5, 6, 6)).tolist() == [1, 0, 0]
    assert torch.equal(store.gather(store.lookup(longs(6)))[0], fresh(RESERVED_KEY))
    assert same(store.state(), before)


def test_vectors_can_be_gathered_into_memory_at_hand(backend: str) -> None:
    store, out = table(backend), torch.empty(2, DIM)
    admit(store, 5)
    assert store.gather(longs(1, 0), out).data_ptr() == out.data_ptr()
    assert torch.equal(out, torch.stack([fresh(5), fresh(RESERVED_KEY)]))


def test_the_unknown_row_learns_like_any_other(backend: str) -> None:
    store = table(backend)
    before = store.gather(longs(0))
    store.update(longs(0, 0), torch.ones(2, DIM))
    torch.testing.assert_close(store.gather(longs(0)), before - SlotSettings().learning_rate)


@pytest.mark.parametrize(
    ("optimizer", "moved"),
    [("adagrad", 0.02), ("adam", 0.02), ("sgd", 0.06), ("frequency_sgd", 0.06 / 2)],
)
def test_each_optimizer_moves_rows_its_way(backend: str, optimizer: str, moved: float) -> None:
    store = table(backend, optimizer=optimizer)
    admit(store, 5, 5, 5, 5)
    learn(store, {5: 3.0})
    torch.testing.assert_close(store.gather(longs(1))[0], fresh(5) - moved)


def test_counts_halve_with_every_half_life(backend: str) -> None:
    store = table(backend, half_life_seconds=10, min_count=2)
    admit(store, 1, 1, 1, 1, ms=1_700_000_000_000)
    store.expire(1_700_000_000_000, 0)
    assert store.decayed_counts(longs(1, 0)).tolist() == [4, 0]
    store.expire(1_700_000_020_000, 0)
    admit(store, 1, ms=1_700_000_020_000)
    assert store.decayed_counts(longs(1)).tolist() == [2]


def test_counts_stay_exact_when_all_weights_are_moved(backend: str) -> None:
    store, days = table(backend, half_life_seconds=86_400), 86_400_000
    admit(store, 1, 1, 1, ms=63 * days)
    before = store.state()
    store.expire(65 * days, 0)
    assert int(store.state()["decay.landmark_ms"]) == 64 * days
    assert float(store.state()["rows.weight"][1] / before["rows.weight"][1]) == 2.0**-64
    assert store.decayed_counts(longs(1)).tolist() == [3 / 4]


def test_another_half_life_goes_on_from_the_counts_of_the_present(backend: str) -> None:
    store = table(backend, half_life_seconds=10)
    admit(store, 1, 1, 1, ms=1_700_000_000_000)
    store.expire(1_700_000_010_000, 0)
    restored = table(backend, half_life_seconds=77)
    restored.load(store.state())
    torch.testing.assert_close(restored.decayed_counts(longs(1)), torch.tensor([1.5]))
    restored.expire(1_700_000_087_000, 0)
    torch.testing.assert_close(restored.decayed_counts(longs(1)), torch.tensor([0.75]))


@pytest.mark.parametrize("slot", [{}, {"min_count": 2}, {"min_count": 5}, {"probability": 0.4}])
def test_nothing_depends_on_how_the_stream_is_cut(backend: str, slot: dict[str, float]) -> None:
    generator = torch.Generator().manual_seed(3)
    stream = torch.randint(60, (500,), generator=generator).square() - 99
    times = torch.randint(10_000, (500,), generator=generator)
    whole = table(backend, **slot)
    rows = whole.admit(stream, times).rows_N
    for size in (1, 7, 100):
        cut = table(backend, **slot)
        batches = zip(stream.split(size), times.split(size), strict=True)
        found = torch.cat([cut.admit(*batch).rows_N for batch in batches])
        assert torch.equal(found, rows)
        assert same(cut.state(), whole.state())


def test_an_erased_id_leaves_nothing_behind(backend: str) -> None:
    store = table(backend, min_count=2)
    admit(store, 1, 1, 2, 2, 3)
    removed = store.remove(longs(3, 2, 9, 2))
    assert (removed.keys_M.tolist(), removed.rows_M.tolist()) == ([2], [2])
    assert (len(store), store.waiting) == (1, 0)
    assert not store.gather(longs(2)).any()
    assert not store.state()["waiting.current.keys"].tolist()


def test_growth_keeps_what_was_learned_and_views_stay_true(backend: str) -> None:
    store = table(backend)
    admit(store, 1)
    learn(store, {1: 1.0})
    before, view = store.gather(longs(0, 1)), store.vectors_RD
    admit(store, *range(5000))
    assert torch.equal(store.gather(longs(0, 1)), before)
    learn(store, {1: 1.0})
    assert torch.equal(view[1], store.gather(longs(1))[0])
    assert (store.vectors_RD.shape, store.last_seen_ms_R.shape) == ((5001, DIM), (5001,))
    assert int(store.last_seen_ms_R[0]) == FOREVER_MS


def test_a_batch_that_cannot_be_used_changes_nothing(backend: str) -> None:
    store = table(backend, min_count=2)
    admit(store, 1)
    before = store.state()
    with pytest.raises(ValueError, match="reserved key"):
        admit(store, 1, RESERVED_KEY)
    with pytest.raises(ValueError, match="reserved key"):
        store.remove(longs(1, RESERVED_KEY))
    with pytest.raises(ValueError, match="one int64 time each"):
        store.admit(longs(1, 2), at(1))
    with pytest.raises(ValueError, match="one int64 time each"):
        store.admit(longs(1), torch.tensor([1.0]))
    assert same(store.state(), before)


def test_an_empty_batch_is_normal(backend: str) -> None:
    store = table(backend, min_count=2, ttl_seconds=1)
    admitted = store.admit(longs(), at(0))
    assert (len(admitted.rows_N), len(admitted.new_rows_M)) == (0, 0)
    store.update(longs(), torch.zeros(0, DIM))
    assert store.gather(longs()).shape == (0, DIM)
    assert store.lookup(longs()).tolist() == []
    assert store.remove(longs()).keys_M.tolist() == []
    store.put_back(store.cut().changes)


def test_a_table_of_another_shape_cannot_be_loaded(backend: str) -> None:
    with pytest.raises(ModelMismatch, match=r"dim = 4, this one dim = 5"):
        table(backend, dim=5).load(table(backend).state())
    with pytest.raises(ModelMismatch, match=r"optimizer = 'adam', .*moments"):
        table(backend, optimizer="adam").load(table(backend).state())
    with pytest.raises(ModelMismatch, match=r"saved table keeps .*moments.*optimizer = 'sgd'"):
        table(backend, optimizer="sgd").load(table(backend, optimizer="adam").state())
