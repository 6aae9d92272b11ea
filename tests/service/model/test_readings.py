"""Scores by kept readings are those of histories read anew, whatever happened in between."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from service.histories.local import Events, Histories, LocalHistories
from service.histories.settings import HistorySettings
from service.model.ranker import ITEM_SLOT, Ranker, Request
from service.model.readings import Readings
from service.versions import Snapshot
from tests.service.model.catalogue import START_MS, Catalogue

CatalogueOf = Callable[..., Catalogue]
NetworkOf = Callable[..., torch.nn.Module]
USERS = 6
CLOSE = {"rtol": 0, "atol": 0}


class Story:
    """Users who act on items of a catalogue, unknown ones among them."""

    def __init__(self, catalogue: Catalogue, seed: int) -> None:
        self.catalogue, self.make = catalogue, np.random.default_rng([seed, 5])
        self.histories = LocalHistories(HistorySettings(ttl_seconds=None, capacity=64))
        self.at_ms = START_MS

    def act(self, user: int, count: int, unknown: int = 8) -> None:
        self.at_ms += 10_000 * count
        items = self.make.choice([*[*self.catalogue.items][1:], *range(-1 - unknown, -1)], count)
        times = self.at_ms - 10_000 * np.arange(count, 0, -1)
        codes, ids = self.make.integers(0, 5, count), np.zeros(count, np.int64)
        self.histories.append(Events(np.full(count, user), items, codes, times, ids), 0)

    def of(self, user: int) -> Histories:
        return self.histories.read(np.array([user]), 17)

    @property
    def keys(self) -> np.ndarray:
        return np.array([*[*self.catalogue.items][1:], -3, -4])


def codes_of(keys_N: np.ndarray) -> torch.Tensor:
    """Categories of items: every third key has one."""
    codes_NK = torch.zeros(len(keys_N), 4, dtype=torch.int32)
    codes_NK[:, 0] = torch.from_numpy((keys_N % 3 == 0).astype(np.int32))
    return codes_NK


def assert_as_read_anew(ranker: Ranker, story: Story) -> None:
    """All users together, by what is kept of them and without."""
    users, at_ms = range(USERS), story.at_ms + 1
    kept = [Request(story.of(user), story.keys, at_ms, user) for user in users]
    anew = [request._replace(user_key=None) for request in kept]
    for a, b in zip(
        ranker.rank_all(kept, codes_of, ranker._readings.count),
        ranker.rank_all(anew, codes_of),
        strict=True,
    ):
        torch.testing.assert_close(a.score_C, b.score_C, **CLOSE)
        torch.testing.assert_close(a.next_item_C, b.next_item_C, **CLOSE)
        for name, values_C in (a.actions or {}).items():
            torch.testing.assert_close(values_C, (b.actions or {})[name], **CLOSE)
    for user in users:
        vectors = [ranker.user(story.of(user), at_ms, codes_of, key) for key in (user, None)]
        torch.testing.assert_close(*vectors, **CLOSE)


@pytest.mark.parametrize("limit", [10**9, 12_000, 0])
@pytest.mark.parametrize("seed", range(4))
def test_appends_evictions_and_versions_leave_scores_as_they_are(
    catalogue_of: CatalogueOf, network_of: NetworkOf, seed: int, limit: int
) -> None:
    catalogue, outcomes = catalogue_of(seed), Counter()
    readings = Readings(limit, lambda outcome: outcomes.update([outcome]))
    ranker, story = Ranker(catalogue.base(40), readings), Story(catalogue, seed)
    for step in range(30):
        match int(story.make.integers(6)):
            case 0:
                dense = dict(network_of(100 + step).state_dict()) if step % 4 == 0 else None
                delta = catalogue.delta(touched=1, added=1, removed=int(step % 5 == 0), dense=dense)
                ranker.apply(ranker.prepare(delta))
            case 1:
                story.histories.forget(np.array([int(story.make.integers(USERS))]))
            case 2 | 3:
                story.act(int(story.make.integers(USERS)), int(story.make.integers(1, 4)))
            case _:
                pass
        assert_as_read_anew(ranker, story)
        assert readings.nbytes <= limit
    if limit == 10**9:
        assert min(outcomes[name] for name in ("hit", "extended", "read")) > 3
        assert len(readings) == USERS


@pytest.fixture
def told() -> Counter:
    return Counter()


@pytest.fixture
def ranker(catalogue_of: CatalogueOf, told: Counter) -> tuple[Ranker, Story]:
    catalogue = catalogue_of()
    readings = Readings(10**9, lambda outcome: told.update([outcome]))
    made = Ranker(catalogue.base(40), readings), Story(catalogue, 0)
    made[1].act(1, 9)
    return made


def ask(ranker: Ranker, story: Story, user: int = 1) -> None:
    request = Request(story.of(user), story.keys[:3], story.at_ms, user)
    ranker.rank_all([request], codes_of, ranker._readings.count)


def test_what_is_asked_again_is_not_read_again(ranker, told: Counter) -> None:
    for _ in range(3):
        ask(*ranker)
    assert told == {"read": 1, "hit": 2}


def test_new_events_alone_are_read(ranker, told: Counter, monkeypatch) -> None:
    ranking, story = ranker
    ask(*ranker)
    story.act(1, 2)
    read, read_by = [], ranking._asker.read
    monkeypatch.setattr(
        ranking._asker, "read", lambda s, v, k: read.append(len(v)) or read_by(s, v, k)
    )
    ask(*ranker)
    assert (told, read) == ({"read": 1, "extended": 1}, [2])


def test_a_version_voids_what_its_rows_or_weights_change_and_nothing_else(
    ranker, told: Counter, network_of: NetworkOf
) -> None:
    ranking, story = ranker
    story.act(2, 5, unknown=0)
    ask(ranking, story, 2)
    mine = set(story.of(2).item_T.tolist())
    others = [key for key in [*story.catalogue.items][1:] if key not in mine]
    for touched, read in ((others[:2], 1), ([*mine][:1], 2)):
        ids = [story.catalogue.items[key].id for key in touched]
        slots = {ITEM_SLOT: story.catalogue._touched(ids, "int8")}
        story.catalogue.number += 1
        number = story.catalogue.number
        apply(
            ranking, Snapshot(number, story.catalogue.model, {}, slots, number - 1, at_ms=START_MS)
        )
        ask(ranking, story, 2)
        assert told == {"hit": 1, "read": read}
    dense = dict(network_of(9).state_dict())
    apply(ranking, story.catalogue.delta(touched=0, added=0, removed=0, dense=dense))
    assert ranking._readings.nbytes == 0
    ask(ranking, story, 2)
    assert told == {"hit": 1, "read": 3}


def apply(ranker: Ranker, delta: Snapshot) -> None:
    ranker.apply(ranker.prepare(delta))


def test_categories_that_come_to_items_without_a_row_void_what_was_read(
    ranker, told: Counter
) -> None:
    ranking, story = ranker
    story.act(1, 3, unknown=10_000)
    request = Request(story.of(1), story.keys[:3], story.at_ms, 1)
    assert (ranking.rows(request.history.item_T) == 0).any()
    nothing = lambda keys_N: torch.zeros(len(keys_N), 4, dtype=torch.int32)  # noqa: E731
    told_by = ranking._readings.count
    ranking.rank_all([request], nothing, told_by)
    ranking.rank_all([request], lambda keys_N: nothing(keys_N) + 1, told_by)
    ranking.rank_all([request], lambda keys_N: nothing(keys_N) + 1, told_by)
    assert told == {"read": 2, "hit": 1}


@pytest.mark.parametrize("layer", ["freshet", "research"])
def test_a_reading_is_charged_all_that_it_keeps_alive(
    catalogue_of: CatalogueOf, layer: str
) -> None:
    """Whole storages: a view would keep what it is a view of."""
    catalogue = catalogue_of(layer=layer)
    ranking, story = Ranker(catalogue.base(40), Readings(10**9)), Story(catalogue, 0)
    for count in (9, 2):
        story.act(1, count)
        ask(ranking, story)
        kept = ranking._readings.get(1).kept
        if layer == "freshet":
            arrays = [kept.stack.at_ms_T, kept.stack.keys_LHKT, kept.stack.values_LHTV]
            assert all(one.base is None or one.base.nbytes == one.nbytes for one in arrays)
            tensors = [*map(torch.from_numpy, arrays), kept.last_D]
        else:
            layers = [tensor for one in kept.encoded.seen for tensor in (one.k, one.v)]
            tensors = [kept.encoded.x_TD, *layers]
        assert [one.untyped_storage().nbytes() for one in tensors] == [
            one.nbytes for one in tensors
        ]
        assert kept.nbytes >= sum(one.nbytes for one in tensors)


def test_who_is_longest_unasked_leaves_first(ranker, told: Counter) -> None:
    ranking, story = ranker
    for user in (2, 3):
        story.act(user, 9)
    ask(ranking, story, 1)
    ranking._readings._limit = int(2.5 * ranking._readings.nbytes)
    for user in (2, 1, 3, 1, 2):
        ask(ranking, story, user)
    assert told == {"read": 4, "hit": 2}
    assert len(ranking._readings) == 2
