"""A ranker that became a version by its deltas scores as one that was built from the whole."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from service.action_types import ActionType, ActionTypes
from service.errors import ModelMismatch, VersionError
from service.histories.local import Events, Histories, LocalHistories
from service.histories.settings import HistorySettings
from service.model.prior import COUNTS_ORIGIN
from service.model.ranker import Ranker
from service.versions import Snapshot
from service.versions.snapshot import fold
from tests.service.model.catalogue import START_MS, Catalogue

CatalogueOf = Callable[..., Catalogue]
NetworkOf = Callable[..., torch.nn.Module]


def history_of(catalogue: Catalogue, seed: int) -> Histories:
    """Events on items of the catalogue, and on some that it never had."""
    make = np.random.default_rng([seed, 3])
    count = int(make.integers(0, 30))
    items = make.choice([*[*catalogue.items][1:], *range(-9, -1)], count)
    times = START_MS - 10_000 * np.arange(count, 0, -1)
    events = Events(
        np.full(count, 5), items, make.integers(0, 5, count), times, np.zeros(count, np.int64)
    )
    histories = LocalHistories(HistorySettings(ttl_seconds=None))
    histories.append(events, 0)
    return histories.read(np.array([5]), 17)


def assert_same(found: Ranker, expected: Ranker, catalogue: Catalogue) -> None:
    """Equal numbers, and equal scores of everything to the bit."""
    assert found.number == expected.number == catalogue.number
    keys = np.array([*catalogue.items, -3, -4])[1:]
    for seed in range(3):
        history, at_ms = history_of(catalogue, seed), START_MS + seed * 10_000_000
        a, b = (ranker.rank(history, keys, at_ms) for ranker in (found, expected))
        assert torch.equal(a.score_C, b.score_C)
        assert torch.equal(a.next_item_C, b.next_item_C)
        assert (a.actions is None) == (b.actions is None)
        for name, values_C in (a.actions or {}).items():
            assert torch.equal(values_C, (b.actions or {})[name])
        every, whole = found.next_items(history, at_ms), expected.next_items(history, at_ms)
        assert torch.equal(every[found.rows(keys)], whole[expected.rows(keys)])
        assert (~every.isneginf()).sum() == len(catalogue.items)


def new_weights(network_of: NetworkOf, seed: int) -> dict[str, Tensor]:
    return dict(network_of(seed).state_dict())


@pytest.mark.parametrize("seed", range(4))
def test_deltas_lead_to_the_scores_of_the_folded_snapshot(
    catalogue_of: CatalogueOf, network_of: NetworkOf, seed: int
) -> None:
    catalogue = catalogue_of(seed, next_item_from=("query", "history")[seed % 2])
    parts = [catalogue.base(40)]
    ranker = Ranker(parts[0])
    for version in range(6):
        dense = new_weights(network_of, 100 + version) if version % 3 == 2 else None
        parts.append(catalogue.delta(touched=6, added=2, removed=4, dense=dense))
        ranker.apply(ranker.prepare(parts[-1]))
        assert_same(ranker, Ranker(catalogue.whole()), catalogue)
        assert_same(ranker, Ranker(fold(parts)), catalogue)


def test_a_version_between_is_what_it_was_while_the_next_is_prepared(
    catalogue_of: CatalogueOf, network_of: NetworkOf
) -> None:
    catalogue = catalogue_of()
    ranker, expected = (Ranker(snapshot) for snapshot in [catalogue.base(30)] * 2)
    keys, history = np.array([*catalogue.items][1:]), history_of(catalogue, 1)
    step = ranker.prepare(catalogue.delta(dense=new_weights(network_of, 9)))
    a, b = (one.rank(history, keys, START_MS) for one in (ranker, expected))
    assert ranker.number == 1
    assert torch.equal(a.score_C, b.score_C)
    ranker.apply(step)
    assert_same(ranker, Ranker(catalogue.whole()), catalogue)


def test_action_heads_may_come_with_a_delta(catalogue_of: CatalogueOf) -> None:
    catalogue = catalogue_of(action_heads=False)
    ranker = Ranker(catalogue.base(10))
    assert ranker.rank(history_of(catalogue, 1), np.array([3]), START_MS).actions is None
    catalogue.described["action_heads"] = True
    ranker.apply(ranker.prepare(catalogue.delta()))
    assert_same(ranker, Ranker(catalogue.whole()), catalogue)
    assert ranker.rank(history_of(catalogue, 1), np.array([3]), START_MS).actions is not None


def test_a_delta_of_another_version_is_refused(catalogue_of: CatalogueOf) -> None:
    catalogue = catalogue_of()
    base = catalogue.base(10)
    ranker = Ranker(base)
    first, second = catalogue.delta(), catalogue.delta()
    with pytest.raises(VersionError, match=r"3 changes is version 2, .*1 is here: deltas between"):
        ranker.prepare(second)
    with pytest.raises(VersionError, match=r"is version None, .*comes twice"):
        ranker.prepare(base)
    step = ranker.prepare(first)
    ranker.apply(step)
    with pytest.raises(VersionError, match="comes twice"):
        ranker.prepare(first)
    with pytest.raises(ValueError, match="a step from version 1 was applied to 2"):
        ranker.apply(step)
    ranker.apply(ranker.prepare(second))
    with pytest.raises(VersionError, match=r"is version 1, .*out of order"):
        ranker.prepare(first)
    assert_same(ranker, Ranker(catalogue.whole()), catalogue)


def _other_settings(s: Snapshot) -> Snapshot:
    return replace(s, model=s.model | {"model": s.model["model"] | {"temperature": 0.5}})


def _other_origin(s: Snapshot) -> Snapshot:
    return replace(s, model=s.model | {COUNTS_ORIGIN: 7})


def _other_weights(s: Snapshot) -> Snapshot:
    return replace(s, dense={"nobody": torch.zeros(1)})


def _other_types(s: Snapshot) -> Snapshot:
    actions = ActionTypes(types={"click": ActionType()}).described()
    return replace(s, model=s.model | {"actions": actions})


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (_other_settings, "version 2 does not fit its settings: its model has other settings"),
        (_other_origin, "its counts have another origin"),
        (_other_weights, 'Unexpected key.*"nobody"'),
        (_other_types, "Missing key"),
        (lambda s: replace(s, slots={}, removed={}), "version 2 has no 'item'"),
    ],
)
def test_a_delta_that_does_not_fit_is_refused_and_changes_nothing(
    catalogue_of: CatalogueOf, alter: Callable[[Snapshot], Snapshot], words: str
) -> None:
    catalogue = catalogue_of()
    ranker = Ranker(catalogue.base(10))
    delta = catalogue.delta()
    with pytest.raises(ModelMismatch, match=f"(?s){words}"):
        ranker.prepare(alter(delta))
    ranker.apply(ranker.prepare(delta))
    assert_same(ranker, Ranker(catalogue.whole()), catalogue)
