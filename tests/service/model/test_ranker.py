"""What a server asks of a version: the same score in any company, and versions that do not fit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.action_types import ActionType, ActionTypes
from service.errors import ModelMismatch
from service.histories.local import Histories
from service.model.hstu import window_start
from service.model.ranker import COUNTS, COUNTS_ORIGIN, ITEM_SLOT, Ranker, Scores, visible
from service.versions import Snapshot

RankerOf = Callable[..., Ranker]
SnapshotOf = Callable[..., Snapshot]
HistoryOf = Callable[..., Histories]

NOW_MS = 1_732_096_800_000
WINDOW = 16
# Logits up to 1 / temperature = 20, sums of up to 48 products in fp32: 20 * 2^-24 * 8 is 1e-5.
CLOSE = {"rtol": 0.0, "atol": 1e-5}
LENGTHS = (0, 1, 2, 15, 16, 17, 21, 63, 100)

each_count = pytest.mark.parametrize("count", LENGTHS)


VARIANTS: list[dict[str, Any]] = [
    {"weights": "softmax"}, {"relative_bias": False}, {"layer": "research"},
    {"layer": "production", "weights": "softmax"},
]  # fmt: skip


@pytest.fixture(scope="module")
def ranker(ranker_of: RankerOf) -> Ranker:
    return ranker_of()


def columns(scores: Scores) -> dict[str, Tensor]:
    assert scores.actions is not None
    return {"score": scores.score_C, "next_item": scores.next_item_C, **scores.actions}


def assert_same(found: Scores, expected: Scores, at: Any, exact: bool = True) -> None:
    """`found` is `expected` at some of its candidates: chances as torch rounds them, by place."""
    whole = columns(expected)
    for name, part in columns(found).items():
        if exact and name in ("score", "next_item"):
            assert torch.equal(part, whole[name][at])
        torch.testing.assert_close(part, whole[name][at], **CLOSE)


@each_count
def test_a_candidate_scores_the_same_alone_in_chunks_and_in_any_order(
    ranker: Ranker, history_of: HistoryOf, count: int
) -> None:
    history, keys = history_of(count, seed=count), np.arange(98, 141)
    together = ranker.rank(history, keys, NOW_MS)
    shuffled = np.random.default_rng(0).permutation(len(keys))
    assert_same(ranker.rank(history, keys[shuffled], NOW_MS), together, shuffled)
    for first, last in ((0, 1), (1, 9), (9, 40), (40, 43)):
        chunk = slice(first, last)
        assert_same(ranker.rank(history, keys[chunk], NOW_MS), together, chunk)
    for c in range(len(keys)):
        assert_same(ranker.rank(history, keys[c : c + 1], NOW_MS), together, slice(c, c + 1))


@pytest.mark.parametrize("model", VARIANTS, ids=str)
def test_so_it_does_in_every_variant(
    ranker_of: RankerOf, history_of: HistoryOf, model: dict[str, Any]
) -> None:
    ranker = ranker_of(**model)
    for count in (0, 1, 16, 63):
        history, keys = history_of(count, seed=count), np.arange(98, 141)
        together = ranker.rank(history, keys, NOW_MS)
        for chunk in (slice(0, 1), slice(1, 9), slice(40, 43)):
            assert_same(ranker.rank(history, keys[chunk], NOW_MS), together, chunk, exact=False)


def test_duplicate_candidates_score_alike(ranker: Ranker, history_of: HistoryOf) -> None:
    keys = np.array([101, 103, 101, 101, 103])
    for column in columns(ranker.rank(history_of(9), keys, NOW_MS)).values():
        torch.testing.assert_close(column[[0, 0, 1]], column[[2, 3, 4]], **CLOSE)


@each_count
def test_ranking_agrees_with_the_scores_of_all_items(
    ranker: Ranker, history_of: HistoryOf, count: int
) -> None:
    history = history_of(count)
    every = ranker.next_items(history, NOW_MS)
    keys = np.arange(100, 139)
    ranked = ranker.rank(history, keys, NOW_MS).next_item_C
    torch.testing.assert_close(ranked, every[1:], **CLOSE)
    unknown = ranker.rank(history, np.array([-5, 10**18]), NOW_MS).next_item_C
    torch.testing.assert_close(unknown, every[[0, 0]], **CLOSE)


def test_events_that_have_left_the_window_change_nothing(
    ranker: Ranker, history_of: HistoryOf
) -> None:
    keys = np.array([100, 120])
    for count in LENGTHS:
        short, long = history_of(count), history_of(count, most=300)
        a, b = ranker.rank(short, keys, NOW_MS), ranker.rank(long, keys, NOW_MS)
        assert all(torch.equal(columns(a)[name], columns(b)[name]) for name in columns(a))


def test_the_time_of_the_request_and_the_last_event_move_the_scores(
    ranker: Ranker, history_of: HistoryOf
) -> None:
    keys = np.arange(100, 130)
    now = columns(ranker.rank(history_of(9), keys, NOW_MS))
    later = columns(ranker.rank(history_of(9), keys, NOW_MS + 5 * 3_600_000))
    more = columns(ranker.rank(history_of(10), keys, NOW_MS))
    for name in now:
        assert not torch.allclose(now[name], later[name])
        assert not torch.allclose(now[name], more[name])


def test_seen_items_get_the_learned_bonus_and_the_unknown_item_none(
    snapshot_of: SnapshotOf, history_of: HistoryOf
) -> None:
    snapshot, history = snapshot_of(), history_of(30)
    scores = []
    for bonus in (0.0, 3.0):
        dense = {**snapshot.dense, "seen": torch.tensor([bonus])}
        scores.append(Ranker(replace(snapshot, dense=dense)).next_items(history, NOW_MS))
    start = window_start(29, WINDOW) - (30 - len(history.item_T))
    seen = {int(key) - 99 for key in history.item_T[start:] if 100 <= key < 139}
    assert len(seen) > 3
    expected = torch.tensor([3.0 if row in seen else 0.0 for row in range(40)])
    torch.testing.assert_close(scores[1] - scores[0], expected, **CLOSE)


def test_a_score_is_the_weighted_sum_of_the_heads_logits(
    ranker_of: RankerOf, history_of: HistoryOf
) -> None:
    weights = {"click": 1.0, "view": 0.0, "like": 2.0, "buy": 0.5, "hide": -1.5}
    types = ActionTypes(
        types={name: ActionType(weight=weight) for name, weight in weights.items()},
        next_item_weight=0.25,
    )
    scores = ranker_of(types=types).rank(history_of(5), np.arange(100, 110), NOW_MS)
    assert scores.actions is not None
    expected = 0.25 * scores.next_item_C
    for name, weight in weights.items():
        expected = expected + weight * torch.logit(scores.actions[name])
    torch.testing.assert_close(scores.score_C, expected, rtol=1e-4, atol=1e-4)


def test_without_action_heads_the_next_item_alone_ranks(
    ranker_of: RankerOf, history_of: HistoryOf
) -> None:
    ranker = ranker_of(action_heads=False, types=ActionTypes(next_item_weight=2.0))
    scores = ranker.rank(history_of(5), np.arange(100, 110), NOW_MS)
    assert scores.actions is None
    assert torch.equal(scores.score_C, 2 * scores.next_item_C)


@pytest.mark.parametrize("next_item_from", ["query", "history"])
@pytest.mark.parametrize("items", [1, 2, 40])
def test_any_version_warms_up(ranker_of: RankerOf, items: int, next_item_from: str) -> None:
    ranker = ranker_of(items=items, next_item_from=next_item_from)
    ranker.warm()
    empty = Histories(np.zeros(2, np.int64), *np.zeros((3, 0), np.int64), np.zeros(1, np.int64))
    assert ranker.next_items(empty, NOW_MS).shape == (items,)
    assert len(ranker.rank(empty, np.zeros(0, np.int64), NOW_MS).score_C) == 0


@pytest.mark.parametrize("next_item_from", ["query", "history"])
def test_quantized_versions_rank_too(
    snapshot_of: SnapshotOf, history_of: HistoryOf, next_item_from: str
) -> None:
    exact = snapshot_of(next_item_from=next_item_from)
    matrices = [name for name, weight in exact.dense.items() if weight.ndim == 2]
    precision = dict.fromkeys([*matrices, f"slots/{ITEM_SLOT}"], "int8") | {
        "actions.weight": "fp32"
    }
    keys = np.arange(100, 139)
    a, b = (
        Ranker(snapshot).rank(history_of(9), keys, NOW_MS).score_C
        for snapshot in (exact, exact.quantized(precision))
    )
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.99


def test_what_is_visible_starts_where_the_window_does() -> None:
    for count in range(4 * WINDOW):
        for held in {min(count, WINDOW + 1), count}:
            ordinal = np.arange(count - held, count)
            history = Histories(
                np.array([0, held]), ordinal, ordinal, ordinal * 10, np.array([count])
            )
            seen, before_ms = visible(history, WINDOW)
            start = window_start(count - 1, WINDOW)
            assert history.item_T[seen].tolist() == list(range(start, count))
            assert before_ms == (10 * (start - 1) if start else -1)


def test_of_a_history_that_holds_less_than_a_window_all_is_visible() -> None:
    ordinal = np.arange(92, 100)
    history = Histories(np.array([0, 8]), ordinal, ordinal, ordinal * 10, np.array([100]))
    seen, before_ms = visible(history, WINDOW)
    assert history.item_T[seen].tolist() == ordinal.tolist()
    assert before_ms == -1


def without(mapping: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}


def _other_width(s: Snapshot) -> Snapshot:
    items = s.slots[ITEM_SLOT]
    return replace(s, slots={ITEM_SLOT: replace(items, codes=items.vectors()[:, :8].contiguous())})


def _two_counts(s: Snapshot) -> Snapshot:
    items = s.slots[ITEM_SLOT]
    return replace(s, slots={ITEM_SLOT: replace(items, extra={COUNTS: torch.zeros(len(items), 2)})})


MISFITS: dict[str, tuple[Callable[[Snapshot], Snapshot], str]] = {
    "more layers": (
        lambda s: replace(s, model=s.model | {"model": s.model["model"] | {"layers": 4}}),
        "version 7 does not fit its settings: .*layers.3",
    ),
    "fewer heads": (
        lambda s: replace(s, model=s.model | {"model": s.model["model"] | {"heads": 1}}),
        "size mismatch",
    ),
    "another action type": (
        lambda s: replace(
            s, model=s.model | {"actions": ActionTypes(types={"click": ActionType()}).described()}
        ),
        "size mismatch for actions.weight",
    ),
    "a weight is missing": (
        lambda s: replace(s, dense=without(s.dense, "tokens.ask")),
        'Missing key.*"tokens.ask"',
    ),
    "a weight too many": (
        lambda s: replace(s, dense=s.dense | {"other": torch.zeros(1)}),
        'Unexpected key.*"other"',
    ),
    "a setting out of range": (
        lambda s: replace(s, model=s.model | {"model": {"window": 3}}),
        "does not fit its settings: .*window",
    ),
    "an unknown setting": (
        lambda s: replace(s, model=s.model | {"model": {"depth": 3}}),
        "does not fit its settings: .*depth",
    ),
    "no settings": (lambda s: replace(s, model={}), "version 7 has no 'model'"),
    "no items": (lambda s: replace(s, slots={}), "version 7 has no 'item'"),
    "no counts": (
        lambda s: replace(s, slots={ITEM_SLOT: replace(s.slots[ITEM_SLOT], extra={})}),
        "version 7 has no 'counts': a release before this one wrote it; publish a new one",
    ),
    "counts from nowhere": (
        lambda s: replace(s, model=without(s.model, COUNTS_ORIGIN)),
        "version 7 has no 'counts_origin_ms': a release before this one wrote it",
    ),
    "counts of two half-lives": (_two_counts, r"item counts are \[40, 2\] where 40 rows have 3"),
    "items of another width": (_other_width, "items are 8 wide, dim is 16"),
}


@pytest.mark.parametrize(("alter", "words"), MISFITS.values(), ids=MISFITS.keys())
def test_a_version_whose_parts_do_not_fit_is_refused(
    snapshot_of: SnapshotOf, alter: Callable[[Snapshot], Snapshot], words: str
) -> None:
    with pytest.raises(ModelMismatch, match=f"(?s){words}"):
        Ranker(alter(snapshot_of()))
