"""Expiry: who has to go, when at the latest, and what is left of them."""

import pytest
import torch

from kernels.key_index import RESERVED_KEY
from tests.service.store.tables import FOREVER_MS, admit, learn, longs, table


def test_a_row_is_gone_when_unseen_for_longer_than_the_time_to_live(backend: str) -> None:
    store = table(backend, ttl_seconds=1.5)
    admit(store, 1, ms=1000)
    admit(store, 2, ms=1001)
    assert store.expire(2500, 10).keys_M.tolist() == []
    expired = store.expire(2501, 10)
    assert (expired.keys_M.tolist(), expired.rows_M.tolist()) == ([1], [1])
    assert store.lookup(longs(1, 2)).tolist() == [0, 2]
    assert store.expired == 1


def test_an_occurrence_renews_a_row_and_an_earlier_time_does_not_age_it(backend: str) -> None:
    store = table(backend, ttl_seconds=1)
    for ms in (1000, 5000, 2000):
        admit(store, 1, ms=ms)
    assert store.last_seen_ms_R.tolist() == [FOREVER_MS, 5000]
    assert len(store.expire(6000, 10).rows_M) == 0
    assert len(store.expire(6001, 10).rows_M) == 1


def test_what_an_expired_row_held_is_overwritten_at_once(backend: str) -> None:
    store = table(backend, ttl_seconds=1, optimizer="adam")
    row = longs(*admit(store, 1))
    learn(store, {1: 1.0})
    store.expire(10_000, 10)
    left = {name: t[1] for name, t in store.state().items() if name.startswith("rows.")}
    assert int(left.pop("rows.last_seen_ms")) == FOREVER_MS
    assert not any(t.any() for t in left.values())
    assert store.keys_of(row).item() == RESERVED_KEY
    assert len(store.live_rows()) == 0


def test_a_sweep_looks_at_its_budget_and_goes_on_where_it_stopped(backend: str) -> None:
    store = table(backend, ttl_seconds=1)
    admit(store, *range(10))
    swept = [store.expire(10_000, 4).keys_M.tolist()]
    restored = table(backend, ttl_seconds=1)
    restored.load(store.state())
    swept += [restored.expire(10_000, 4).keys_M.tolist() for _ in range(2)]
    # Row 0 takes a place in the first slice; the third wraps around.
    assert swept == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9]]
    assert store.expire(10_000, 0).keys_M.tolist() == []


@pytest.mark.parametrize("budget", [1, 7, 99, 100, 1000])
def test_every_row_is_gone_within_one_round_of_calls(backend: str, budget: int) -> None:
    store = table(backend, ttl_seconds=1)
    admit(store, *range(99))
    for _ in range(3):
        store.expire(2000, budget)
    bound = -(-100 // budget)
    found = sum(len(store.expire(2001, budget).rows_M) for _ in range(bound))
    assert (found, len(store), store.expired) == (99, 0, 99)


def test_a_sweep_over_many_rows_finds_what_a_comparison_finds() -> None:
    store = table(ttl_seconds=1)
    last_seen_ms = torch.randint(3000, (70_000,), generator=torch.Generator().manual_seed(1))
    store.admit(torch.arange(70_000), last_seen_ms)
    expired = store.expire(2500, 1_000_000)
    assert torch.equal(expired.keys_M, (last_seen_ms < 1500).nonzero().squeeze(1))


def test_without_a_time_to_live_nothing_expires(backend: str) -> None:
    store = table(backend)
    admit(store, 1)
    assert len(store.expire(2**61, 100).rows_M) == 0


def test_a_watermark_that_comes_back_from_the_future_does_no_harm(backend: str) -> None:
    # Bounding it is the caller's; the table goes on, and what has expired by mistake comes again.
    store = table(backend, ttl_seconds=1000)
    admit(store, 1, ms=1000)
    store.expire(4_000_000_000_000, 10)
    assert admit(store, 1, ms=2000) == [1]
    assert len(store.expire(3000, 10).rows_M) == 0
    assert store.lookup(longs(1)).tolist() == [1]
