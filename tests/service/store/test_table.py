"""One slot's table: what each promise looks like when it is tested alone."""

import pytest
import torch
from pydantic import ValidationError

from kernels.key_index import RESERVED_KEY
from kernels.row_init import initial_rows
from service.errors import ModelMismatch
from service.store import EmbeddingTable, SlotSettings

BACKENDS = ("reference", "numba")
FOREVER_MS = 2**63 - 1


def keys(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def at(count: int, ms: int = 1000) -> torch.Tensor:
    return torch.full((count,), ms, dtype=torch.int64)


def admit(table: EmbeddingTable, *values: int, ms: int = 1000) -> list[int]:
    rows: list[int] = table.admit(keys(*values), at(len(values), ms)).rows_N.tolist()
    return rows


def table(backend: str = "numba", **settings: object) -> EmbeddingTable:
    return EmbeddingTable(SlotSettings.model_validate({"dim": 4, **settings}), 7, backend)


def fresh(key: int) -> torch.Tensor:
    return initial_rows(keys(key), 4, 7, 0.01)[0]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_ids_get_rows_from_one_in_order_of_arrival(backend: str) -> None:
    store = table(backend)
    admitted = store.admit(keys(30, 10, 30, 20), at(4))
    assert admitted.rows_N.tolist() == [1, 2, 1, 3]
    assert admitted.new_rows_M.tolist() == [1, 2, 3]
    assert store.keys_of(torch.arange(4)).tolist() == [RESERVED_KEY, 30, 10, 20]
    assert store.live_rows().tolist() == [1, 2, 3]
    assert store.live_keys().tolist() == [30, 10, 20]
    assert len(store) == 3


def test_an_id_without_a_row_reads_the_unknown_row_and_gets_none_by_being_read(
    backend: str,
) -> None:
    store = table(backend)
    admit(store, 5)
    before = store.state()
    assert store.lookup(keys(5, 6, 6)).tolist() == [1, 0, 0]
    assert torch.equal(store.gather(store.lookup(keys(6)))[0], fresh(RESERVED_KEY))
    assert all(torch.equal(before[name], tensor) for name, tensor in store.state().items())


def test_the_unknown_row_learns_like_any_other(backend: str) -> None:
    store = table(backend)
    before = store.gather(keys(0))
    store.update(keys(0, 0), torch.ones(2, 4))
    torch.testing.assert_close(store.gather(keys(0)), before - SlotSettings().learning_rate)


def test_an_id_is_admitted_at_its_min_count_th_occurrence_not_before(backend: str) -> None:
    store = table(backend, min_count=3)
    assert admit(store, 8, 8) == [0, 0]
    assert (len(store), store.waiting) == (0, 1)
    admitted = store.admit(keys(8, 8, 9), at(3))
    assert admitted.rows_N.tolist() == [1, 1, 0]
    assert admitted.new_rows_M.tolist() == [1]
    assert (len(store), store.waiting) == (1, 1)
    assert store.counts_R.tolist() == [0, 4]


def test_occurrences_before_the_earning_one_read_the_unknown_row_in_its_own_batch(
    backend: str,
) -> None:
    assert admit(table(backend, min_count=3), 8, 9, 8, 8, 9, 8) == [0, 0, 0, 1, 0, 1]


def test_rows_are_numbered_by_earning_occurrence_not_by_first_sight(backend: str) -> None:
    assert admit(table(backend, min_count=2), 8, 9, 9, 8, 8) == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("min_count", [1, 2, 5])
@pytest.mark.parametrize("max_rows", [None, 20])
def test_nothing_depends_on_how_the_stream_is_cut(
    backend: str, min_count: int, max_rows: int | None
) -> None:
    generator = torch.Generator().manual_seed(3)
    stream = torch.randint(60, (500,), generator=generator).square() - 99
    times = torch.randint(10_000, (500,), generator=generator)
    whole = table(backend, min_count=min_count, max_rows=max_rows)
    rows = whole.admit(stream, times).rows_N
    for size in (1, 7, 100):
        cut = table(backend, min_count=min_count, max_rows=max_rows)
        batches = zip(stream.split(size), times.split(size), strict=True)
        found = torch.cat([cut.admit(*batch).rows_N for batch in batches])
        assert torch.equal(found, rows)
        assert cut.state().keys() == whole.state().keys()
        assert all(torch.equal(cut.state()[n], tensor) for n, tensor in whole.state().items())


def test_min_count_one_keeps_no_counters(backend: str) -> None:
    store = table(backend)
    admit(store, 1)
    assert store.waiting == 0
    assert not any(name.startswith("waiting") for name in store.state())


def test_a_full_table_refuses_new_ids_counts_it_and_serves_the_others(backend: str) -> None:
    store = table(backend, max_rows=2, ttl_seconds=10)
    assert admit(store, 1, 2, 3, 1, 3, 4) == [1, 2, 0, 1, 0, 0]
    assert (len(store), store.refused) == (2, 3)
    assert admit(store, 2, ms=9000) == [2]
    store.expire(12_000, 100)
    assert admit(store, 3, 4) == [1, 0]
    assert store.refused == 4


def test_an_earned_row_that_was_refused_is_given_when_there_is_room(backend: str) -> None:
    store = table(backend, max_rows=1, min_count=2, ttl_seconds=10)
    assert admit(store, 1, 1, 2, 2, 2) == [0, 1, 0, 0, 0]
    assert (store.refused, store.waiting) == (2, 1)
    store.expire(20_000, 100)
    assert admit(store, 2) == [1]
    assert store.waiting == 0
    assert store.counts_R.tolist() == [0, 2]


def test_a_row_is_gone_when_unseen_for_longer_than_the_time_to_live(backend: str) -> None:
    store = table(backend, ttl_seconds=1.5)
    admit(store, 1, ms=1000)
    admit(store, 2, ms=1001)
    assert store.expire(2500, 10).keys_M.tolist() == []
    expired = store.expire(2501, 10)
    assert (expired.keys_M.tolist(), expired.rows_M.tolist()) == ([1], [1])
    assert store.lookup(keys(1, 2)).tolist() == [0, 2]


def test_an_occurrence_renews_a_row_and_an_earlier_time_does_not_age_it(backend: str) -> None:
    store = table(backend, ttl_seconds=1)
    admit(store, 1, ms=1000)
    admit(store, 1, ms=5000)
    admit(store, 1, ms=2000)
    assert store.last_seen_ms_R.tolist() == [FOREVER_MS, 5000]
    assert len(store.expire(6000, 10).rows_M) == 0
    assert len(store.expire(6001, 10).rows_M) == 1


def test_what_an_expired_row_held_is_overwritten_at_once(backend: str) -> None:
    store = table(backend, ttl_seconds=1)
    row = keys(*admit(store, 1))
    store.update(row, torch.ones(1, 4))
    store.expire(10_000, 10)
    assert not store.gather(row).any()
    assert not store.state()["rows.squares"][1:].any()
    assert (store.counts_R[1], store.last_seen_ms_R[1]) == (0, FOREVER_MS)
    assert store.keys_of(row).item() == RESERVED_KEY
    assert len(store.live_rows()) == 0


@pytest.mark.parametrize("min_count", [1, 2])
def test_a_readmitted_id_starts_like_one_never_seen(backend: str, min_count: int) -> None:
    store = table(backend, ttl_seconds=1, min_count=min_count)
    for key in (1, 2):
        admit(store, *[key] * 5)
    store.update(keys(1, 2), torch.ones(2, 4))
    store.expire(10_000, 10)
    # The row freed last is taken first: id 1 lands in the row of id 2.
    assert admit(store, *[1] * min_count, ms=20_000)[-1] == 2
    assert torch.equal(store.gather(keys(2))[0], fresh(1))
    assert store.state()["rows.squares"][2] == 0
    assert (store.counts_R[2], store.last_seen_ms_R[2]) == (min_count, 20_000)


def test_a_sweep_looks_at_its_budget_and_goes_on_where_it_stopped(backend: str) -> None:
    store = table(backend, ttl_seconds=1)
    admit(store, *range(10))
    swept = [store.expire(10_000, 4).keys_M.tolist() for _ in range(3)]
    # Row 0 takes a place in the first slice; the third wraps around.
    assert swept == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9]]
    assert store.expire(10_000, 0).keys_M.tolist() == []


def test_every_row_is_found_within_one_round_of_the_sweep(backend: str) -> None:
    store = table(backend, ttl_seconds=1)
    admit(store, *range(99))
    for _ in range(3):
        store.expire(0, 7)
    found = [len(store.expire(10_000, 7).rows_M) for _ in range(-(-100 // 7))]
    assert sum(found) == 99


def test_without_a_time_to_live_nothing_expires(backend: str) -> None:
    store = table(backend)
    admit(store, 1)
    assert len(store.expire(2**62, 100).rows_M) == 0


def test_memory_reaches_a_plateau_when_ids_come_and_go(backend: str) -> None:
    store = table(backend, ttl_seconds=1, min_count=2)
    sizes = []
    for turn in range(20):
        batch = (torch.arange(500) + turn * 500).repeat(2)
        store.admit(batch, at(1000, turn * 10_000))
        store.expire(turn * 10_000 + 9_000, 2000)
        sizes.append(store.nbytes)
    assert len(store.vectors_RD) == 501
    assert sizes[-1] <= 1.1 * sizes[9]


def test_bytes_are_those_of_every_array_that_grows() -> None:
    store = table(min_count=2)
    assert store.nbytes < 120_000
    store.admit(torch.arange(5000).repeat(2), at(10_000))
    by_row = 5001 * (4 * 4 + 4 + 8 + 4)  # as many as were needed, being more than double
    index = store._index.nbytes
    assert store._admission is not None
    assert store.nbytes == by_row + index + store._admission.nbytes
    assert store._admission.nbytes > 5000 * 20


def test_vectors_are_a_view_of_the_rows_in_use() -> None:
    store = table()
    admit(store, 4, 5)
    assert store.vectors_RD.shape == (3, 4)
    store.update(keys(1), torch.ones(1, 4))
    assert torch.equal(store.vectors_RD[1:2], store.gather(keys(1)))


def test_growth_keeps_what_was_learned(backend: str) -> None:
    store = table(backend)
    admit(store, 1)
    store.update(keys(1), torch.ones(1, 4))
    before = store.gather(keys(0, 1))
    admit(store, *range(5000))
    assert torch.equal(store.gather(keys(0, 1)), before)


def test_a_batch_that_cannot_be_used_changes_nothing(backend: str) -> None:
    store = table(backend, min_count=2)
    admit(store, 1)
    before = store.state()
    with pytest.raises(ValueError, match="reserved key"):
        admit(store, 1, RESERVED_KEY)
    with pytest.raises(ValueError, match="one int64 time each"):
        store.admit(keys(1, 2), at(1))
    with pytest.raises(ValueError, match="one int64 time each"):
        store.admit(keys(1), torch.tensor([1.0]))
    assert all(torch.equal(before[name], tensor) for name, tensor in store.state().items())


def test_an_empty_batch_is_normal(backend: str) -> None:
    store = table(backend, min_count=2, ttl_seconds=1)
    admitted = store.admit(keys(), at(0))
    assert (len(admitted.rows_N), len(admitted.new_rows_M)) == (0, 0)
    store.update(keys(), torch.zeros(0, 4))
    assert store.gather(keys()).shape == (0, 4)
    assert store.lookup(keys()).tolist() == []


def test_a_table_of_another_width_cannot_be_loaded(backend: str) -> None:
    with pytest.raises(ModelMismatch, match=r"dim = 4, this one dim = 5"):
        table(backend, dim=5).load(table(backend).state())


def test_state_is_a_copy(backend: str) -> None:
    store = table(backend, min_count=2)
    admit(store, 1, 1, 2)
    state = {name: tensor.clone() for name, tensor in store.state().items()}
    saved = store.state()
    admit(store, 3, 3, 2)
    store.update(keys(0, 1), torch.ones(2, 4))
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.items())


@pytest.mark.parametrize(
    "wrong", [{"dim": 0}, {"min_count": 0}, {"ttl_seconds": -1}, {"ttl_seconds": float("inf")}]
)
def test_settings_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SlotSettings.model_validate(wrong)
