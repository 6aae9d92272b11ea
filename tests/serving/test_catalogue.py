"""The catalogue beside the exact search: what may be returned, and what is found without a row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.crew import Crew
from service.action_types import ActionTypes
from service.actions import RESERVED_KEY, Id, key_of
from service.histories.local import Histories
from service.items import Item
from service.model.categories import FIRST
from service.model.network import Network
from service.model.ranker import COUNTS, COUNTS_ORIGIN, Ranker, described
from service.model.settings import ModelSettings
from service.versions import RowIds, SlotRows, Snapshot
from serving.catalogue import Catalogue
from serving.category_sets import CategorySets
from serving.questions import ANY, Wanted
from serving.retrieval import Search

MODEL = ModelSettings(
    dim=8, layers=1, heads=1, qk_width=4, v_width=4, window=8, categories=4, priors=(3600.0,)
)
NOBODY = Histories(np.zeros(2, np.int64), *np.zeros((3, 0), np.int64), np.zeros(1, np.int64))
AT_MS = 1_732_096_800_000
NAMES = ("a", "b", "c", "d")
WITH_ROW = [f"i{n}" for n in range(6)]
OTHERS = [f"n{n}" for n in range(5)]


def ranker_of(with_row: Sequence[Id] = WITH_ROW, known: Sequence[str] = NAMES) -> Ranker:
    torch.manual_seed(3)
    network = Network(MODEL, 5)
    assert network.categories is not None
    torch.nn.init.normal_(network.categories.weight, std=0.5)
    network.categories.keys[FIRST : FIRST + len(known)] = torch.tensor([key_of(n) for n in known])
    keys = torch.tensor([RESERVED_KEY, *map(key_of, with_row)])
    rows = SlotRows(
        keys, torch.randn(len(keys), MODEL.dim), {COUNTS: torch.rand(len(keys), 1)},
        RowIds.from_list(["", *with_row]),
    )  # fmt: skip
    says = {**described(MODEL, ActionTypes(), False), COUNTS_ORIGIN: AT_MS}
    return Ranker(Snapshot(1, says, dict(network.state_dict()), {"item": rows}, at_ms=AT_MS))


RANKER = ranker_of()


def told(catalogue: Catalogue, items: Sequence[Item], ranker: Ranker | None = RANKER) -> None:
    catalogue.apply(catalogue.prepare(items), ranker)


def found(
    catalogue: Catalogue, count: int = 100, wanted: Wanted = ANY, excluded: Sequence[Id] = (),
    at_ms: int = AT_MS, ranker: Ranker = RANKER,
) -> list[Id]:  # fmt: skip
    keys = np.array([key_of(one) for one in excluded], np.int64)
    best = Search(NOBODY, at_ms, keys, wanted).best(ranker, catalogue, count, Crew())
    assert [key_of(one) for one in best.ids] == best.keys_K.tolist()
    return list(best.ids)


class Plain:
    """The same in dicts and loops."""

    def __init__(self) -> None:
        self.items: dict[Id, Item] = {}

    def tell(self, items: Sequence[Item]) -> None:
        for one in items:
            self.items.pop(one.item, None)
            if not one.deleted:
                self.items[one.item] = one

    def able(self, item: Id, wanted: Wanted, at_ms: int) -> bool:
        one = self.items.get(item)
        if one is None:
            return not wanted.needs_record
        if one.hidden or (one.expires_at is not None and at_ms >= one.expires_at * 1000):
            return False
        if wanted.categories and not set(wanted.categories) & set(one.categories):
            return False
        if set(wanted.without) & set(one.categories):
            return False
        found = [one.features.get(name) for name in wanted.features]
        asked = list(wanted.features.values())  # True is not 1 here, as it is in Python
        return [(type(v), v) for v in found] == [(type(v), v) for v in asked]

    def score(self, item: Id) -> float:
        categories = list(dict.fromkeys(self.items[item].categories)) if item in self.items else []
        codes = [FIRST + NAMES.index(name) for name in categories] + [0] * 8

        def codes_of(keys_N: Any) -> torch.Tensor:
            return torch.tensor([codes[:8]] * len(keys_N), dtype=torch.int32)

        return float(RANKER.rank(NOBODY, np.array([key_of(item)]), AT_MS, codes_of).next_item_C[0])

    def best(self, wanted: Wanted, excluded: Sequence[Id], at_ms: int) -> list[tuple[float, Id]]:
        every = {*WITH_ROW, *self.items} - set(excluded)
        able = [one for one in every if self.able(one, wanted, at_ms)]
        return sorted(((self.score(one), one) for one in able), key=lambda pair: -pair[0])


texts = st.lists(st.sampled_from(NAMES), max_size=3)
records = st.builds(
    Item,
    item=st.sampled_from([*WITH_ROW, *OTHERS]),
    categories=texts,
    hidden=st.sampled_from([False, False, False, True]),
    expires_at=st.sampled_from([None, None, AT_MS / 1000 - 5, AT_MS / 1000, AT_MS / 1000 + 5]),
    features=st.dictionaries(st.just("language"), st.sampled_from(["en", "de", 1, True])),
    deleted=st.sampled_from([False, False, False, False, True]),
)
wishes = st.builds(
    Wanted, categories=texts, without=st.lists(st.sampled_from(NAMES), max_size=1),
    features=st.dictionaries(st.just("language"), st.sampled_from(["en", 1, "fr"])),
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.lists(records, max_size=6), max_size=4),
    wishes,
    st.lists(st.sampled_from([*WITH_ROW, *OTHERS]), max_size=2),
    st.integers(1, 12),
)
def test_the_masked_search_finds_what_plain_loops_find(
    blocks: list[list[Item]], wanted: Wanted, excluded: list[Id], count: int
) -> None:
    catalogue, plain = Catalogue(["language"]), Plain()
    for block in blocks:
        told(catalogue, block)
        plain.tell(block)
    assert len(catalogue) == len(plain.items)
    assert catalogue.unseen == len(set(plain.items) - set(WITH_ROW))
    expected = plain.best(wanted, excluded, AT_MS)
    best = found(catalogue, count, wanted, excluded)
    assert len(best) == len(set(best)) == min(count, len(expected))
    # Of items with equal scores any may stand first, or be the last one in.
    scores = [plain.score(one) for one in best]
    np.testing.assert_allclose(scores, [s for s, _ in expected[:count]], rtol=0, atol=1e-5)
    assert {*best} <= {one for _, one in expected}
    keys = np.array([key_of(one) for one in (*WITH_ROW, *OTHERS)])
    shown = [plain.able(one, ANY, AT_MS) for one in (*WITH_ROW, *OTHERS)]
    assert catalogue.shown(keys, AT_MS).tolist() == shown


def test_an_item_goes_when_its_time_comes_and_returns_with_a_later_one() -> None:
    catalogue = Catalogue()
    told(catalogue, [Item(item="i3", expires_at=AT_MS / 1000)])
    assert "i3" in found(catalogue, at_ms=AT_MS - 1)
    assert "i3" not in found(catalogue, at_ms=AT_MS)
    told(catalogue, [Item(item="i3", expires_at=AT_MS / 1000 + 1)])
    assert "i3" in found(catalogue, at_ms=AT_MS)


def test_of_equal_items_without_a_row_the_last_to_come_stands_first() -> None:
    catalogue = Catalogue()
    told(catalogue, [Item(item=f"n{n}", categories=["a"]) for n in range(20)])
    new = [one for one in found(catalogue) if one not in WITH_ROW]
    assert new == [f"n{n}" for n in reversed(range(20))]
    assert [one for one in found(catalogue, 9) if one not in WITH_ROW] == new[: 9 - len(
        [one for one in found(catalogue, 9) if one in WITH_ROW]
    )]  # fmt: skip


def test_a_row_that_comes_or_goes_with_a_version_moves_its_item() -> None:
    catalogue = Catalogue()
    told(catalogue, [Item(item="i1", hidden=True), Item(item="new", hidden=True)], None)
    assert catalogue.unseen == 2
    catalogue.link(RANKER)
    assert catalogue.unseen == 1
    assert "i1" not in found(catalogue)
    later = ranker_of([*WITH_ROW, "new"])
    catalogue.link(later, np.array([key_of("new")]))
    assert catalogue.unseen == 0
    assert sorted(map(str, found(catalogue, ranker=later))) == ["i0", "i2", "i3", "i4", "i5"]
    without = ranker_of(["i0"])
    catalogue.link(without)
    assert catalogue.unseen == 2
    assert found(catalogue, ranker=without) == ["i0"]


def test_categories_that_the_model_has_not_met_say_nothing() -> None:
    sets, ranker = CategorySets(), ranker_of(known=["a"])
    assert sets.number(("x", "a")) == 1
    assert sets.codes(ranker.model.network.categories).tolist()[1][:2] == [FIRST, 0]
    assert sets.number(("x",)) == 2
    assert sets.codes(ranker.model.network.categories).tolist()[2][:2] == [0, 0]
    full = sets.codes(RANKER.model.network.categories).tolist()
    assert full[1][:3] == [1, FIRST, 0]  # it can meet no more: "x" is one of the others
    assert full[2][:2] == [1, 0]
    assert sets.codes(None).shape == (3, 0)


@pytest.mark.parametrize(
    ("there", "asked", "alike"),
    [("en", "en", True), (1, 1.0, True), (1, True, False), (1, "1", False), (0, False, False)],
)
def test_features_are_compared_by_value_and_type(there: Any, asked: Any, alike: bool) -> None:
    catalogue = Catalogue(["f"])
    told(catalogue, [Item(item="i1", features={"f": there})])
    assert found(catalogue, wanted=Wanted(features={"f": asked})) == (["i1"] if alike else [])


def test_what_is_deleted_leaves_its_place_to_others() -> None:
    catalogue = Catalogue()
    told(catalogue, [Item(item=f"n{n}") for n in range(100)])
    for n in range(100):
        told(catalogue, [Item(item=f"n{n}", deleted=True), Item(item=f"m{n}")])
    keys = np.array([key_of(f"m{n}") for n in range(100)])
    assert (
        sorted(catalogue.places(keys).tolist()) == list(range(len(catalogue))) == list(range(100))
    )
    assert {one for one in found(catalogue, 1000) if one not in WITH_ROW} == {
        f"m{n}" for n in range(100)
    }
