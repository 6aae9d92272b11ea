"""Rows with categories in a server: what changes in place is what is loaded whole, and what plain
sums say."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.errors import ModelMismatch
from service.histories.local import Histories
from service.model.ranker import ITEM_SLOT, Ranker
from service.versions import Snapshot, VersionDirectory, fold
from tests.service.model.catalogue import Catalogue

CatalogueOf = Callable[..., Catalogue]
MOST = 6
NOBODY = Histories(np.zeros(2, np.int64), *np.zeros((3, 0), np.int64), np.zeros(1, np.int64))
USER = torch.randn(16, generator=torch.Generator().manual_seed(5))
EXACT = {"rtol": 0.0, "atol": 2e-6}


def coded(snapshot: Snapshot, seed: int, places: int = 3) -> Snapshot:
    """The snapshot with random categories for about half of its rows; none for the unknown one."""
    rows, make = snapshot.slots[ITEM_SLOT], torch.Generator().manual_seed(seed)
    codes = torch.randint(1, MOST + 2, (len(rows), places), generator=make, dtype=torch.int16)
    codes[torch.rand(codes.shape, generator=make) < 0.5] = 0
    codes = codes.sort(dim=1, descending=True).values
    codes[0] = 0
    slot = replace(rows, categories=codes)
    return replace(snapshot, slots={ITEM_SLOT: slot})


def expected(ranker: Ranker, snapshot: Snapshot) -> tuple[Tensor, Tensor]:
    """Vectors of a whole snapshot's items by plain sums, and the cosine of each with USER."""
    rows, weight = snapshot.slots[ITEM_SLOT], snapshot.weights()["categories.weight"]
    vectors = rows.vectors()
    if rows.categories is not None:
        for r, codes in enumerate(rows.categories.tolist()):
            used = [code for code in codes if code]
            if used:
                vectors[r] += weight[used].mean(0)
    cosine = torch.nn.functional.cosine_similarity(vectors, USER[None], dim=1) * USER.norm()
    return vectors, cosine


def check(ranker: Ranker, truth: Snapshot) -> None:
    """Every item of the truth reads as plain sums say, one by one and among all."""
    vectors, cosine = expected(ranker, truth)
    keys = truth.slots[ITEM_SLOT].keys_R.numpy()
    rows = torch.cat([torch.zeros(1, dtype=torch.int64), ranker.rows(keys[1:])])
    torch.testing.assert_close(ranker.items.gather(rows), vectors, **EXACT)
    prior = ranker.items.logits(torch.zeros(16), rows)
    torch.testing.assert_close(ranker.items.logits(USER, rows) - prior, cosine, rtol=0, atol=1e-5)
    every = ranker.items.logits_of_all(USER)
    torch.testing.assert_close(every[rows], ranker.items.logits(USER, rows), rtol=0, atol=1e-5)
    others = torch.ones(len(every), dtype=torch.bool)
    others[rows] = False
    assert every[others].isneginf().all()


@pytest.mark.parametrize("first_has_any", [True, False])
def test_deltas_with_categories_make_what_a_whole_snapshot_makes(
    catalogue_of: CatalogueOf, first_has_any: bool
) -> None:
    catalogue = catalogue_of(categories=MOST)
    base = catalogue.base(30)
    links = [coded(base, 0) if first_has_any else base]
    ranker = Ranker(links[0])
    check(ranker, links[0])
    for number in range(1, 12):
        dense = None
        if number % 4 == 3:  # vectors of categories move: lengths of all rows do
            moved = torch.randn(MOST + 2, 16, generator=torch.Generator().manual_seed(number))
            dense = catalogue.dense | {"categories.weight": moved}
        delta = catalogue.delta(dense=dense)
        if number % 3:
            delta = coded(delta, number, places=1 + number % 5)
        links.append(delta)
        ranker.apply(ranker.prepare(delta))
        whole = fold(links)
        check(ranker, whole)
        check(Ranker(whole), whole)


def test_a_file_without_categories_says_nothing_of_them(
    catalogue_of: CatalogueOf, tmp_path: Any
) -> None:
    base = catalogue_of(categories=MOST).base(5)
    assert "categories" not in base.slots[ITEM_SLOT].to_tensors()
    directory = VersionDirectory(tmp_path)
    with directory.begin(1) as draft:
        entry = coded(base, 1).write(draft)
    assert entry.bytes > 0


def test_codes_that_the_model_has_no_vector_for_are_refused(catalogue_of: CatalogueOf) -> None:
    base = coded(catalogue_of(categories=MOST).base(5), 1)
    codes = base.slots[ITEM_SLOT].categories
    assert codes is not None
    high = replace(base.slots[ITEM_SLOT], categories=torch.full_like(codes, MOST + 2))
    with pytest.raises(ModelMismatch, match="codes up to 8"):
        Ranker(replace(base, slots={ITEM_SLOT: high}))
    with pytest.raises(ModelMismatch, match="codes below 0"):
        Ranker(coded(catalogue_of(categories=0).base(5), 1))
    with pytest.raises(ValueError, match="below 0"):
        replace(base.slots[ITEM_SLOT], categories=-codes)


def test_an_item_without_a_row_is_the_unknown_one_with_its_categories(
    catalogue_of: CatalogueOf,
) -> None:
    base = coded(catalogue_of(categories=MOST).base(20), 3)
    ranker, keys = Ranker(base), base.slots[ITEM_SLOT].keys_R.numpy()
    asked = np.array([999_001, keys[4], 999_002, 999_003])
    known = {999_001: [2, 3, 0], 999_002: [4, 0, 0]}

    def codes_of(keys_N: Any) -> Tensor:
        return torch.tensor([known.get(k, [0, 0, 0]) for k in keys_N.tolist()], dtype=torch.int32)

    def score(keys_C: Any) -> Tensor:
        return ranker.rank(NOBODY, keys_C, 1, codes_of).next_item_C

    bare, told = ranker.rank(NOBODY, asked, 1).next_item_C, score(asked)
    assert bare[0] == bare[2] == bare[3] == told[3]
    assert bare[1] == told[1]
    user_D = ranker.user(NOBODY, 1)
    weight = base.weights()["categories.weight"]
    vectors = base.slots[ITEM_SLOT].vectors()[0] + torch.stack([weight[2:4].mean(0), weight[4]])
    cosine = torch.nn.functional.cosine_similarity(vectors, user_D[None], dim=1) * user_D.norm()
    prior = ranker.items.logits(torch.zeros(16), torch.zeros(1, dtype=torch.int64))
    torch.testing.assert_close(told[[0, 2]], cosine + prior, rtol=0, atol=1e-5)
    one_by_one = torch.cat([score(asked[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(one_by_one, told, rtol=0, atol=1e-5)
