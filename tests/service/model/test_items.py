"""Rows that change in place are what rows built at once are, to the bit, wherever they stand."""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.reserved import page_bytes
from service.actions import RESERVED_KEY
from service.model import ids as packed_ids
from service.model.dense import Model
from service.model.items import ItemRows
from service.model.network import item_prior
from service.model.prior import COUNTS, Prior
from service.model.ranker import ITEM_SLOT
from service.versions import Snapshot
from tests.service.model.catalogue import START_MS, Catalogue

CatalogueOf = Callable[..., Catalogue]
PRECISIONS = ("int8", "fp32", "fp16", "int4")
USER = torch.randn(16, generator=torch.Generator().manual_seed(5))


def prior_of(snapshot: Snapshot) -> Prior:
    return Model.of(snapshot).prior


def rows_of(snapshot: Snapshot) -> ItemRows:
    return ItemRows(snapshot.slots[ITEM_SLOT], prior_of(snapshot))


def changed(rows: ItemRows, delta: Snapshot, dense: dict[str, Tensor]) -> None:
    prior = prior_of(replace(delta, dense=dense))
    rows.apply(rows.prepare(delta.slots[ITEM_SLOT], delta.removed[ITEM_SLOT], prior))


def assert_same(found: ItemRows, expected: ItemRows) -> None:
    """The same items with the same vectors, ids and logits; nothing else can be found."""
    keys = np.sort(expected.live_keys())
    np.testing.assert_array_equal(np.sort(found.live_keys()), keys)
    a, b = found.rows(keys), expected.rows(keys)
    assert (a > 0).all()
    assert len(set(a.tolist())) == len(keys)
    assert found.ids_of(a) == expected.ids_of(b)
    np.testing.assert_array_equal(found.keys_of(a), keys)
    assert torch.equal(found.gather(a), expected.gather(b))
    zero = torch.zeros(1, dtype=torch.int64)
    assert torch.equal(found.gather(zero), expected.gather(zero))
    every = found.logits_of_all(USER)
    assert torch.equal(every[a], expected.logits_of_all(USER)[b])
    assert torch.equal(every[0], expected.logits_of_all(USER)[0])
    torch.testing.assert_close(found.logits(USER, a), every[a], rtol=0, atol=1e-5)
    assert torch.equal(found.logits(USER, a), expected.logits(USER, b))
    others = torch.ones(len(found), dtype=torch.bool)
    others[a] = others[0] = False
    assert every[others].isneginf().all()


@pytest.mark.parametrize("seed", range(8))
def test_after_any_changes_rows_are_those_that_are_built_at_once(
    catalogue_of: CatalogueOf, seed: int
) -> None:
    catalogue = catalogue_of(seed)
    make = np.random.default_rng([seed, 1])
    rows = rows_of(catalogue.base(int(make.integers(0, 60)), PRECISIONS[seed % 4]))
    assert_same(rows, rows_of(catalogue.whole()))
    for _ in range(12):
        amounts = [int(amount) for amount in make.integers(0, 12, 3)]
        delta = catalogue.delta(*amounts, precision=PRECISIONS[make.integers(4)])
        changed(rows, delta, catalogue.dense)
        assert_same(rows, rows_of(catalogue.whole()))
        assert rows.precision == delta.slots[ITEM_SLOT].precision


@pytest.mark.parametrize("precision", PRECISIONS)
def test_vectors_and_logits_are_those_of_rows_that_were_decoded_offline(
    catalogue_of: CatalogueOf, precision: str
) -> None:
    base = catalogue_of(dim=16).base(300, precision)
    rows, slot, every = rows_of(base), base.slots[ITEM_SLOT], torch.arange(301)
    vectors = slot.vectors()
    torch.testing.assert_close(rows.gather(every), vectors, rtol=0, atol=1e-5)
    prior = torch.from_numpy(prior_of(base)(slot.extra[COUNTS].view(-1).numpy()))
    expected = vectors.double() @ USER.double() / vectors.double().norm(dim=1) + prior.double()
    torch.testing.assert_close(rows.logits(USER, every).double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(rows.logits_of_all(USER).double(), expected, rtol=0, atol=1e-5)


def test_a_version_in_eight_bits_takes_the_memory_of_eight_bits(catalogue_of: CatalogueOf) -> None:
    sizes = {}
    for precision in PRECISIONS:
        base = catalogue_of(dim=64).base(40_000, precision)
        sizes[precision] = rows_of(base).nbytes
    page, rows = page_bytes(), 40_001
    for precision, row in (("int8", 64 + 4), ("int4", 32 + 4), ("fp16", 128)):
        saved = sizes["fp32"] - sizes[precision]
        assert abs(saved - rows * (256 - row)) <= 3 * page


def test_the_memory_of_items_that_went_is_used_again(catalogue_of: CatalogueOf) -> None:
    catalogue = catalogue_of()
    rows = rows_of(catalogue.base(50))
    for _ in range(30):
        changed(rows, catalogue.delta(touched=5, added=8, removed=10), catalogue.dense)
    assert len(rows) <= 61


def test_items_that_went_read_the_unknown_row(catalogue_of: CatalogueOf) -> None:
    catalogue = catalogue_of()
    rows = rows_of(catalogue.base(20))
    before = set(rows.live_keys().tolist())
    changed(rows, catalogue.delta(removed=5, added=0), catalogue.dense)
    gone = np.array(sorted(before - set(rows.live_keys().tolist())))
    assert len(gone) == 4  # one of the five is back
    assert rows.rows(gone).tolist() == [0] * 4


def test_a_key_that_nobody_has_may_be_removed(catalogue_of: CatalogueOf) -> None:
    catalogue = catalogue_of()
    rows = rows_of(catalogue.base(20))
    delta = catalogue.delta()
    removed_T = torch.cat([delta.removed[ITEM_SLOT], torch.tensor([10**15])])
    changed(rows, replace(delta, removed={ITEM_SLOT: removed_T}), catalogue.dense)
    assert_same(rows, rows_of(catalogue.whole()))


def test_preparing_changes_nothing(catalogue_of: CatalogueOf) -> None:
    catalogue = catalogue_of()
    rows = rows_of(catalogue.base(20))
    before = copy.deepcopy(catalogue)
    delta = catalogue.delta(touched=9, added=9, removed=9)
    rows.prepare(delta.slots[ITEM_SLOT], delta.removed[ITEM_SLOT], prior_of(catalogue.whole()))
    assert_same(rows, rows_of(before.whole()))


def test_ids_are_packed_anew_before_they_outgrow_what_is_in_use(
    catalogue_of: CatalogueOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_ids, "SPARE_BYTES", 64)
    catalogue = catalogue_of()
    rows = rows_of(catalogue.base(40))
    most = 0
    for _ in range(60):
        changed(rows, catalogue.delta(touched=30, added=2, removed=2), catalogue.dense)
        most = max(most, rows._ids._utf8.length)
    assert_same(rows, rows_of(catalogue.whole()))
    in_use = sum(len(str(item.id).encode()) for item in catalogue.items.values())
    assert most < 5 * in_use


def test_priors_are_those_of_the_counts_at_the_versions_time(catalogue_of: CatalogueOf) -> None:
    catalogue = catalogue_of(priors=(10.0, 3600.0))
    rows = rows_of(catalogue.base(20))
    for _ in range(3):
        changed(rows, catalogue.delta(touched=1, added=0, removed=0), catalogue.dense)
    keys = np.array([key for key in catalogue.items if key != RESERVED_KEY])
    counts = torch.stack([catalogue.items[key].counts_P for key in keys.tolist()])
    seconds = (catalogue.at_ms - START_MS) / 1000
    now = counts * torch.tensor([2 ** (-seconds / 10), 2 ** (-seconds / 3600)])
    found = rows.logits(torch.zeros(16), rows.rows(keys))
    torch.testing.assert_close(found, item_prior(now, catalogue.dense["prior"]))


def test_rows_that_do_not_fit_are_refused(catalogue_of: CatalogueOf) -> None:
    catalogue = catalogue_of()
    base = catalogue.base(20)
    rows, prior, slot = rows_of(base), prior_of(base), base.slots[ITEM_SLOT]
    none = torch.empty(0, dtype=torch.int64)
    wide = catalogue_of(dim=32).base(3)
    with pytest.raises(ValueError, match="rows are 32 wide, those they change 16"):
        rows.prepare(wide.slots[ITEM_SLOT], none, prior)
    with pytest.raises(ValueError, match=r"item counts are \[21, 2\] where 21 rows have 3"):
        rows.prepare(replace(slot, extra={COUNTS: torch.zeros(21, 2)}), none, prior)
    with pytest.raises(KeyError, match=COUNTS):
        rows.prepare(replace(slot, extra={}), none, prior)
    with pytest.raises(ValueError, match="the unknown row is among those removed"):
        rows.prepare(slot, torch.tensor([RESERVED_KEY]), prior)


def test_a_rehearsal_changes_nothing(catalogue_of: CatalogueOf) -> None:
    catalogue = catalogue_of()
    rows = rows_of(catalogue.base(20))
    rows.rehearse()
    assert_same(rows, rows_of(catalogue.whole()))
