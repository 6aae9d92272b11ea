"""A ranker that computes beside its rows' codes on a device: run by `test_placed.py` in Triton's
interpreter, in a process of its own, for that is chosen before the kernels are imported."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from service.actions import RESERVED_KEY
from service.device import CPU, ON_CPU, Device, chosen
from service.errors import SettingsError
from service.histories.local import Histories
from service.model.items import ItemRows
from service.model.placed import PlacedRows
from service.model.plain import PlainAsker
from service.model.ranker import ITEM_SLOT, Ranker, Request
from service.model.readings import Readings
from serving.computing import computing
from serving.settings import ServingSettings
from tests.service.model.catalogue import START_MS, Catalogue
from tests.service.model.test_categories import MOST, coded
from tests.service.model.test_items import changed, rows_of

CatalogueOf = Callable[..., Catalogue]
PRECISIONS = ("int8", "int4", "fp16", "fp32")
DEVICE = Device(CPU, "triton")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def assert_same_rows(placed: PlacedRows, rows: ItemRows) -> None:
    every = torch.arange(len(rows))
    live = torch.cat([every[:1], rows.rows(rows.live_keys())])
    assert torch.equal(placed.gather(live, rows._categories), rows.gather(live))


def test_the_setting_chooses_the_interpreter() -> None:
    assert chosen("cuda", "serving.device") == DEVICE


@pytest.mark.parametrize("seed", range(4))
def test_the_copy_follows_every_change_of_the_rows(catalogue_of: CatalogueOf, seed: int) -> None:
    """Rows come, go, return and outgrow their room, and precisions meet."""
    catalogue, make = catalogue_of(seed), np.random.default_rng([seed, 4])
    rows = rows_of(catalogue.base(20, PRECISIONS[seed]))
    placed = PlacedRows(rows, CPU)
    assert_same_rows(placed, rows)
    for turn in range(10):
        delta = catalogue.delta(
            *make.integers(0, 12, 3).tolist(), precision=PRECISIONS[seed if turn < 5 else turn % 4]
        )
        changed(rows, delta, catalogue.dense)
        removed = delta.removed.get(ITEM_SLOT, torch.empty(0, dtype=torch.int64))
        touched = torch.cat([removed, delta.slots[ITEM_SLOT].keys_R]).numpy()
        placed.follow(rows.rows(touched[touched != RESERVED_KEY]))
        placed.follow(torch.zeros(1, dtype=torch.int64))
        assert_same_rows(placed, rows)


def history_of(catalogue: Catalogue, events: int) -> Histories:
    """A user's last events, on items of the catalogue and on some that it never had."""
    make = np.random.default_rng(3)
    items = make.choice([*[*catalogue.items][1:6], *range(-9, -1)], 12)[:events]
    at_ms = START_MS - 10_000 * np.arange(12, 0, -1)[:events]
    return Histories(np.array([0, events]), items, items % 5, at_ms, np.array([events]))


def codes_of(keys_N: np.ndarray) -> Tensor:
    """Of items without a row: some have a category."""
    return torch.from_numpy(np.stack([keys_N % 5, 0 * keys_N], 1)).int()


def assert_ranks_alike(found: Ranker, wanted: Ranker, catalogue: Catalogue) -> None:
    keys = np.array([*catalogue.items, -3, -4])[1:]
    for events in (0, 7, 7, 12):
        told: list[list[str]] = [[], []]
        request = Request(history_of(catalogue, events), keys, START_MS, user_key=1)
        a, b = (
            one.rank_all([request], codes_of, heard.append)[0]
            for one, heard in zip((found, wanted), told, strict=True)
        )
        assert told[0] == told[1]
        torch.testing.assert_close(a.score_C, b.score_C, **CLOSE)
        torch.testing.assert_close(a.next_item_C, b.next_item_C, **CLOSE)
        why, truly = (one.explain(request, codes_of) for one in (found, wanted))
        torch.testing.assert_close(why.weight_CT, truly.weight_CT, **CLOSE)
    assert torch.equal(found.vectors(keys, codes_of), wanted.vectors(keys, codes_of))
    every, truth = (one.next_items(request.history, START_MS) for one in (found, wanted))
    torch.testing.assert_close(every, truth, **CLOSE)


@pytest.mark.parametrize("heads", [True, False])
def test_it_ranks_as_the_cpu_does_after_every_change(
    catalogue_of: CatalogueOf, heads: bool
) -> None:
    catalogue = catalogue_of(categories=MOST, action_heads=heads)
    base = coded(catalogue.base(30), 0)
    found = Ranker(base, Readings(2**20), "fp32", DEVICE)
    wanted = Ranker(base, Readings(2**20), "fp32")
    assert_ranks_alike(found, wanted, catalogue)
    for number in range(1, 6):
        moved = torch.randn(MOST + 2, 16, generator=torch.Generator().manual_seed(number))
        dense = catalogue.dense | {"categories.weight": moved} if number == 3 else None
        delta = coded(catalogue.delta(dense=dense), number)
        for ranker in (found, wanted):
            ranker.apply(ranker.prepare(delta))
        assert_ranks_alike(found, wanted, catalogue)


def test_bfloat16_and_the_measured_precision_are_there_and_bytes_are_not(
    catalogue_of: CatalogueOf,
) -> None:
    catalogue = catalogue_of()
    base = catalogue.base(30)
    assert Ranker(base, None, "auto", DEVICE).dense in ("fp32", "bf16")
    low, full = (Ranker(base, None, dense, DEVICE) for dense in ("bf16", "fp32"))
    history, keys = history_of(catalogue, 12), base.slots[ITEM_SLOT].keys_R[1:].numpy()
    a, b = (one.rank(history, keys, START_MS) for one in (low, full))
    assert not torch.equal(a.next_item_C, b.next_item_C)
    torch.testing.assert_close(a.next_item_C, b.next_item_C, rtol=0.1, atol=0.3)
    with pytest.raises(
        SettingsError, match=r"dense = 'int8' runs on the CPU alone; set it to fp32"
    ):
        computing(ServingSettings(device="cuda", dense="int8"))
    assert computing(ServingSettings(device="cuda", dense="bf16")) == DEVICE


def test_two_threads_gather_at_once(catalogue_of: CatalogueOf) -> None:
    """As a server that ranks while it prepares the next version."""
    rows = rows_of(catalogue_of().base(30))
    placed, every = PlacedRows(rows, CPU), torch.arange(len(rows))
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda _: placed.gather(every, None), range(40)):
            assert torch.equal(found, rows.gather(every))


def test_networks_of_another_form_stay_on_the_cpu(catalogue_of: CatalogueOf) -> None:
    catalogue = catalogue_of(layer="research")
    base = catalogue.base(30)
    found, wanted = (Ranker(base, None, "fp32", device) for device in (DEVICE, ON_CPU))
    assert isinstance(found._asker, PlainAsker)
    history, keys = history_of(catalogue, 12), base.slots[ITEM_SLOT].keys_R[1:].numpy()
    a, b = (one.rank(history, keys, START_MS) for one in (found, wanted))
    assert torch.equal(a.score_C, b.score_C)
