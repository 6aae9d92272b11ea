"""What the trainer remembers of items' categories, and what becomes of it in versions."""

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.actions import RESERVED_KEY, key_of
from service.items import Item, category_keys
from service.model.categories import FIRST, OTHER, SLOTS, Categories
from service.store import EmbeddingTable
from service.store.settings import SlotSettings
from trainer.categories import ItemCategories, folded
from trainer.places import Places

MOST = 5
NAMES = [f"c{n}" for n in range(MOST + 3)]
Story = list[tuple[int, list[str], bool]]
"""Item, its categories, whether it is deleted."""


def empty() -> ItemCategories:
    return ItemCategories(Categories(MOST, 4))


def items(story: Story) -> dict[int, list[int]]:
    records = [Item(item=i, categories=names, deleted=gone) for i, names, gone in story]
    return category_keys(records)


def codes_of(memory: ItemCategories, keys: Sequence[int]) -> list[list[int]]:
    """The codes in use, by item."""
    rows = memory.codes(torch.tensor(keys, dtype=torch.int64)).tolist()
    return [[code for code in row if code] for row in rows]


def test_the_latest_record_of_an_item_counts_whole() -> None:
    memory = empty()
    assert memory.put(items([(1, ["a", "b"], False), (2, ["b"], False)])).tolist() == [1, 2]
    assert codes_of(memory, [1, 2, 3]) == [[FIRST, FIRST + 1], [FIRST + 1], []]
    assert memory.put(items([(1, ["c"], False), (1, ["b", "b", "a"], False)])).tolist() == [1]
    assert codes_of(memory, [1]) == [[FIRST + 1, FIRST]]
    assert memory.put(items([(2, ["b"], False)])).tolist() == []
    assert memory.put(items([(2, ["b"], True), (9, [], True)])).tolist() == [2]
    assert codes_of(memory, [1, 2]) == [[FIRST + 1, FIRST], []]
    assert len(memory) == 1


def test_before_any_category_nothing_is_computed_and_the_unknown_row_has_none() -> None:
    memory, keys = empty(), torch.tensor([RESERVED_KEY, 1])
    memory.put(items([(1, [], False)]))
    assert not memory.known
    assert memory.codes(keys).shape == (2, 0)
    assert memory.state() == memory.cut(whole=True) == {}
    memory.put(items([(2, ["a"], False)]))
    assert memory.codes(keys).tolist() == [[0], [0]]


def test_beyond_the_limit_categories_share_a_code_and_are_counted() -> None:
    memory = empty()
    memory.put(items([(1, NAMES[:MOST], False), (2, [*NAMES[MOST:], NAMES[0]], False)]))
    assert codes_of(memory, [1, 2]) == [list(range(FIRST, FIRST + MOST)), [OTHER, FIRST]]
    assert memory.others == 3


def test_only_the_first_categories_speak() -> None:
    memory = ItemCategories(Categories(20, 4))
    memory.put(items([(1, [f"c{n}" for n in range(20)], False)]))
    assert codes_of(memory, [1]) == [list(range(FIRST, FIRST + SLOTS))]


def test_a_model_without_categories_remembers_nothing() -> None:
    memory = ItemCategories(None)
    assert memory.put(items([(1, ["a"], False)])).tolist() == []
    assert memory.codes(torch.tensor([1])).shape == (1, 0)


stories = st.lists(
    st.tuples(
        st.integers(0, 6), st.lists(st.sampled_from(NAMES), max_size=4), st.booleans()
    ),
    max_size=12,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(stories, st.booleans(), st.booleans()), max_size=6))
def test_cuts_that_are_folded_make_the_state_and_the_state_makes_the_memory(
    parts: list[tuple[Story, bool, bool]],
) -> None:
    categories = Categories(MOST, 4)
    memory, state = ItemCategories(categories), {}
    for story, failed, whole in parts:
        memory.put(items(story))
        if failed:
            memory.put_back(memory.cut())
        delta = memory.cut(whole)
        state = folded({} if whole else state, [delta])
        now = memory.state()
        assert state.keys() == now.keys()
        assert all(torch.equal(state[name], now[name]) for name in now)
    again = ItemCategories(categories)
    again.load(state)
    assert codes_of(again, range(7)) == codes_of(memory, range(7))
    assert (again.known, len(again), again.others) == (memory.known, len(memory), memory.others)


def test_items_without_a_row_are_places_of_their_own_if_they_have_categories() -> None:
    table, memory = EmbeddingTable(SlotSettings(dim=4), seed=0), empty()
    table.admit(torch.tensor([10, 11]), torch.zeros(2, dtype=torch.int64))
    keys = torch.tensor([11, 30, 20, 12, 30, 10])
    assert Places.of(keys, table, memory).place_N.tolist() == [2, 0, 0, 0, 0, 1]
    memory.put(items([(10, ["a"], False), (20, ["b"], False), (30, ["a", "c"], False)]))
    places = Places.of(keys, table, memory)
    assert places.place_N.tolist() == [2, -2, -1, 0, -2, 1]
    places_U = places.place_N.unique()
    a, b, c = FIRST, FIRST + 1, FIRST + 2
    found = places.codes(places_U, table, memory)
    assert places_U.tolist() == [-2, -1, 0, 1, 2]
    assert found.tolist() == [[a, c], [b, 0], [0, 0], [a, 0], [0, 0]]


def test_an_item_s_vector_is_its_row_and_the_mean_of_its_categories() -> None:
    categories = Categories(MOST, 4)
    torch.nn.init.normal_(categories.weight)
    own, w = torch.randn(3, 4, requires_grad=True), categories.weight
    codes = torch.tensor([[2, 3, 0], [0, 0, 0], [5, 0, 0]], dtype=torch.int32)
    found = categories(own, codes)
    expected = torch.stack([own[0] + (w[2] + w[3]) / 2, own[1], own[2] + w[5]])
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert own.grad is not None
    assert bool((own.grad == 1).all())
    assert w.grad is not None
    assert w.grad[:, 0].tolist() == [0, 0, 0.5, 0.5, 0, 1, 0]


def test_keys_name_categories() -> None:
    categories = Categories(2, 4)
    memory = ItemCategories(categories)
    memory.put(items([(1, ["news"], False)]))
    assert categories.keys.tolist() == [RESERVED_KEY] * 2 + [key_of("news"), RESERVED_KEY]
    assert not categories.full
    memory.put(items([(1, ["sport"], False)]))
    assert categories.full
    assert np.array_equal(memory.put(items([(2, ["more"], False)])), [2])
