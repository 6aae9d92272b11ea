"""Stochastic length: its law, its choice of events, and what an example keeps in spite of it."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from service.histories.local import Events, LocalHistories
from service.histories.settings import HistorySettings
from trainer.examples import Batch, batches
from trainer.stochastic_length import StochasticLength, staying, word_of

WINDOW = 64
DRAWS = 6_000


def words(draws: int = DRAWS) -> Iterator[np.uint64]:
    """Words as different blocks draw them."""
    return (StochasticLength(1.6, (0, block)).word for block in range(draws))


def stays(at_ms: list[int], alpha: float, word: np.uint64) -> np.ndarray:
    shorten = StochasticLength(alpha, ())
    short, work = shorten.short(WINDOW), shorten.longest_work(WINDOW)
    return staying(np.array(at_ms, np.int64), short, work, word)


@pytest.mark.parametrize(
    ("alpha", "events"), [(1.2, 13), (1.2, 60), (1.6, 30), (1.6, 64), (1.9, 64)]
)
def test_a_long_history_is_shortened_as_often_as_the_law_says(alpha: float, events: int) -> None:
    at_ms = list(range(events))
    kept_N = np.array([stays(at_ms, alpha, word).sum() for word in words()])
    short = int(WINDOW ** (alpha / 2))
    assert set(kept_N.tolist()) == {short, events}
    expected = 1 - WINDOW**alpha / events**2
    error = (expected * (1 - expected) / DRAWS) ** 0.5
    assert abs((kept_N == short).mean() - expected) < 4 * error


@pytest.mark.parametrize(("alpha", "events"), [(1.2, 12), (1.6, 27), (2.0, 64), (1.6, 1), (1.6, 0)])
def test_a_history_within_the_short_length_is_never_touched(alpha: float, events: int) -> None:
    at_ms = list(range(events))
    assert all(stays(at_ms, alpha, word).sum() == events for word in words(200))


def test_what_stays_is_drawn_by_recency_and_the_newest_always_stays() -> None:
    """Frequencies of a slow oracle: one event after the other out of those that are left."""
    at_ms = np.array([0, 40_000, 70_000, 88_000, 94_000, 98_000, 99_000, 99_500, 100_000])
    age_N, keep = at_ms[-1] - at_ms, 4
    weight_N = (1 - age_N / age_N.sum())[:-1]
    draw, wanted_N = np.random.default_rng(5), np.zeros(len(at_ms))
    for _ in range(DRAWS):
        p_N = weight_N / weight_N.sum()
        wanted_N[draw.choice(len(at_ms) - 1, keep - 1, replace=False, p=p_N)] += 1
    wanted_N[-1] = DRAWS
    found_N = np.zeros(len(at_ms))
    for word in words():
        stays_N = staying(at_ms, keep, 0.0, word)
        assert stays_N.sum() == keep
        found_N += stays_N
    assert found_N[-1] == DRAWS
    error_N = np.sqrt(2 * wanted_N * (1 - wanted_N / DRAWS))[:-1]
    assert (np.abs(found_N - wanted_N)[:-1] < 4 * error_N).all()
    assert found_N[0] < found_N[1:].min() - 4 * error_N.max(), "the oldest stays least often"


def test_times_that_are_equal_or_run_backwards_leave_every_event_a_chance() -> None:
    for at_ms in ([5] * 8, [9, 8, 7, 6, 5, 4, 3, 2]):
        times = np.array(at_ms, np.int64)
        found_N = sum(staying(times, 3, 0.0, word).astype(int) for word in words(400))
        assert found_N.min() > 400 * 2 / 7 / 2


def test_an_event_with_all_of_the_weight_against_it_leaves_first() -> None:
    times = np.array([0, 10, 10, 10], np.int64)
    assert not any(staying(times, 3, 0.0, word)[0] for word in words(200))


def test_draws_differ_by_seed_block_user_and_place() -> None:
    seeds = [StochasticLength(1.6, seed).word for seed in [(0, 1), (1, 0), (0, 2), (0,), (1, 1)]]
    assert len(set(seeds)) == len(seeds)
    assert StochasticLength(1.6, (0, 1)).word == seeds[0]
    places = [(7, 0), (7, 16), (8, 0), (-7, 0)]
    assert len({int(word_of(seeds[0], user, ordinal)) for user, ordinal in places}) == len(places)


def stream(count: int, users: int) -> Events:
    draw = np.random.default_rng(2)
    column = np.arange(count)
    return Events(
        draw.integers(1, users + 1, count), column + 100, column % 3, column * 1000, column * 0
    )  # fmt: skip


CONTEXT, NEW = 900, 60


def examples(
    shorten: StochasticLength | None, budget: int = 10**6, user: int | None = None
) -> tuple[list[Batch], Events]:
    """Batches of the last NEW of 960 events, of which only one user's may be learned."""
    histories = LocalHistories(HistorySettings(ttl_seconds=None, capacity=128))
    events = stream(CONTEXT + NEW, users=15)
    before, block = (events.where(np.arange(960) < CONTEXT), events.where(np.arange(960) >= 900))
    histories.append(before, 0)
    block = block if user is None else block.where(block.user_T == user)
    numbers: dict[int, int] = {}
    user_of_T = np.array([numbers.setdefault(u, len(numbers)) for u in block.user_T.tolist()])
    context = histories.read(np.array(list(numbers)), WINDOW + 1)
    accepted = histories.append(block, 0)
    positive_T = np.ones(len(block), np.bool_)
    made = batches(context, user_of_T, accepted, positive_T, WINDOW, budget, shorten=shorten)
    return [part for parts in made for part in parts], block


def seen_by_event(made: list[Batch]) -> dict[int, list[tuple[int, int, int, int]]]:
    """Item, action, time and time before of all that each query row sees."""
    found = {}
    for batch in made:
        seen, queries = batch.seen, batch.queries
        columns = (seen.item_E, seen.action_E, seen.events.at_ms, seen.before_ms_E)
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        for b, first in enumerate(seen.events.offsets[:-1].tolist()):
            for q in range(int(queries.offsets[b]), int(queries.offsets[b + 1])):
                event = int(batch.event_Q[q])
                assert event not in found, "a loss term twice"
                end = first + int(queries.limit[q])
                assert end <= seen.events.offsets[b + 1], "a row sees into its neighbour"
                found[event] = rows[first:end]
        assert torch.equal(queries.position, queries.limit)
    return found


def test_only_context_is_left_out_and_every_event_is_a_loss_term_once() -> None:
    shorten = StochasticLength(1.5, (0, 7))
    full, (made, block) = seen_by_event(examples(None)[0]), examples(shorten)
    short = seen_by_event(made)
    assert sorted(short) == sorted(full) == list(range(NEW))
    shortened = set()
    for event, sees in full.items():
        kept = iter(sees)
        assert all(row in kept for row in short[event]), "kept in order, with their true gaps"
        own = [row for row in sees if row[2] >= CONTEXT * 1000]
        context = len(sees) - len(own)
        assert short[event][len(short[event]) - len(own) :] == own, "the block's own stay"
        left = len(short[event]) - len(own)
        assert left in (context, shorten.short(WINDOW))
        if left < context:
            shortened.add(int(block.user_T[event]))
            assert short[event][left - 1] == sees[context - 1], "the newest of the context stays"
    assert len(shortened) > 5
    truths = torch.cat([batch.truth_Q for batch in made])
    assert sorted(truths.tolist()) == sorted(block.item_T.tolist())


def test_draws_repeat_change_with_the_block_and_depend_on_nobody_else() -> None:
    def seen(block: int, user: int | None = None) -> list[list[tuple[int, int, int, int]]]:
        return list(
            seen_by_event(examples(StochasticLength(1.5, (0, block)), user=user)[0]).values()
        )

    everyone = seen(3)
    assert everyone == seen(3)
    assert everyone != seen(4)
    for user in set(examples(None)[1].user_T.tolist()):
        alone = seen(3, user)
        assert 0 < len(alone) < len(everyone)
        assert all(sees in everyone for sees in alone)


def test_nothing_is_left_out_at_two_and_with_none() -> None:
    assert same(examples(None)[0], examples(StochasticLength(2.0, (0, 1)))[0])
    assert not same(examples(None)[0], examples(StochasticLength(1.5, (0, 1)))[0])


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    return seen_by_event(ours) == seen_by_event(theirs) and len(ours) == len(theirs)


def test_batches_hold_more_examples_for_the_same_budget() -> None:
    full, short = (len(examples(s, budget=200)[0]) for s in (None, StochasticLength(1.4, (0, 1))))
    assert short < full
