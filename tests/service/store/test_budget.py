"""The budget: what is charged bounds what is allocated, and is never exceeded."""

import math

import pytest
import torch

from kernels.reserved import HUGE_BYTES
from service.errors import SettingsError
from service.store import Budget, EmbeddingTable
from service.store.budget import row_bytes, waiting_bytes
from service.store.settings import CapSettings, SlotSettings
from tests.service.store.tables import Other, at, budget_for

RANGES = 40
"""Reserved ranges of a table and its counters: each may begin a huge page that it does not fill."""


def test_all_holders_are_charged_together() -> None:
    budget, one, another = Budget(CapSettings(max_bytes=100)), Other(30), Other(25)
    budget.join(one)
    budget.join(another)
    assert (budget.charged, budget.left, budget.room(10)) == (55, 45, 4)


def test_who_is_gone_is_charged_no_longer() -> None:
    budget = Budget(CapSettings(max_bytes=10**6))
    store = EmbeddingTable(SlotSettings(dim=4), 0, budget=budget)
    assert budget.charged == store.charged_bytes > 0
    del store  # at once, without a collection: its memory would stay as long
    assert budget.charged == 0


def test_without_a_limit_there_is_always_room() -> None:
    budget, other = Budget(CapSettings()), Other(2**60)
    budget.join(other)
    assert (budget.left, budget.room(2**70)) == (math.inf, math.inf)


def test_a_limit_below_an_empty_store_is_refused_by_name() -> None:
    slot = SlotSettings(min_count=2, max_waiting=1000)
    too_low = Budget(CapSettings(max_bytes=waiting_bytes(slot)))
    with pytest.raises(SettingsError, match=r"store.max_bytes = \d+ is less than .* max_waiting"):
        EmbeddingTable(slot, 1, budget=too_low)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_churn_of_twenty_times_the_capacity_stays_below_the_limit(optimizer: str) -> None:
    slot = SlotSettings.model_validate(
        {"dim": 8, "min_count": 2, "max_waiting": 6000, "optimizer": optimizer, "grace_seconds": 1}
    )
    budget = budget_for(slot, rows=20_000)
    store = EmbeddingTable(slot, 1, budget=budget)
    limit, keys, most = budget.max_bytes or 0, torch.arange(2500), 0
    for turn in range(160):
        store.expire(turn * 1000, 0)
        store.admit((keys + 2500 * turn).repeat(2), at(5000, turn * 1000))
        assert store.charged_bytes <= limit
        assert store.nbytes <= store.charged_bytes + RANGES * HUGE_BYTES
        most = max(most, len(store))
    assert most == 20_000
    assert store.evicted >= 19 * 20_000
    assert store.refused.total() == 0


def test_rows_cost_what_the_documentation_says() -> None:
    assert row_bytes(SlotSettings(dim=64)) == 4 * 64 + 111
    assert row_bytes(SlotSettings(dim=64, optimizer="adam")) == 8 * 64 + 111


def test_many_rows_take_no_more_than_they_are_charged() -> None:
    slot = SlotSettings(dim=16)
    store = EmbeddingTable(slot, 1)
    for first in range(0, 300_000, 50_000):
        store.admit(torch.arange(first, first + 50_000), at(50_000))
        store.cut()
    store.remove(torch.arange(0, 300_000, 2))
    assert store.nbytes <= store.charged_bytes + RANGES * HUGE_BYTES
    assert store.nbytes >= 0.6 * store.charged_bytes
