"""The pool of recent positives against plain counting."""

from collections import Counter

import numpy as np
import pytest
import torch

from trainer.negatives import UNSEEN, NegativePool


def pool_of(*pushes: list[int], window: int = 10) -> NegativePool:
    pool = NegativePool(window)
    for rows in pushes:
        pool.push(np.array(rows, np.int64))
    return pool


def held(pool: NegativePool) -> Counter[int]:
    return Counter(pool.state()["rows"].tolist())


def test_the_pool_is_the_last_positives() -> None:
    pool = pool_of([1, 2, 3, 4], [5, 6, 7, 8], [9, 1, 1])
    assert held(pool) == Counter([2, 3, 4, 5, 6, 7, 8, 9, 1, 1])
    assert len(pool) == 10


def test_a_push_larger_than_the_window_leaves_its_end() -> None:
    assert held(pool_of([3, 3, *range(10, 25)], window=4)) == Counter([21, 22, 23, 24])


def test_draws_repeat_for_a_seed_and_follow_the_shares_of_the_pool() -> None:
    pool = pool_of([1] * 6 + [2] * 3 + [3])
    drawn = pool.draw(20_000, (0, 7, 1))
    np.testing.assert_array_equal(drawn, pool.draw(20_000, (0, 7, 1)))
    assert not np.array_equal(drawn, pool.draw(20_000, (0, 7, 2)))
    shares = {row: times / 20_000 for row, times in Counter(drawn.tolist()).items()}
    assert shares == pytest.approx({1: 0.6, 2: 0.3, 3: 0.1}, abs=0.02)


def test_an_empty_pool_draws_nothing() -> None:
    assert len(NegativePool(5).draw(100, (1,))) == 0


def expected_log(pool: NegativePool, rows: list[int], set_size: int) -> torch.Tensor:
    """By counting: share of the pool, an unseen item as half an occurrence, times the set."""
    counts = held(pool)
    shares = [(counts[row] + UNSEEN) / (len(pool) + 1) for row in rows]
    return torch.tensor(np.log(np.array(shares) * set_size), dtype=torch.float32)


def test_log_expected_counts_what_the_pool_holds() -> None:
    draw, pool = np.random.default_rng(0), NegativePool(50)
    rows = np.arange(40)
    for step in range(30):
        pool.push(draw.zipf(1.5, int(draw.integers(0, 20))) % 40)
        if step % 7 == 3:
            pool.forget(np.unique(draw.integers(0, 40, 3)))
        expected = expected_log(pool, rows.tolist(), set_size=1000)
        torch.testing.assert_close(pool.log_expected(torch.from_numpy(rows), 1000), expected)


def test_expected_occurrences_are_those_of_real_draws() -> None:
    pool = pool_of([1] * 600 + [2] * 300 + [3] * 100, window=1000)
    drawn = Counter(pool.draw(50_000, (3,)).tolist())
    expected = pool.log_expected(torch.tensor([1, 2, 3]), 50_000).exp().tolist()
    assert expected == pytest.approx([drawn[1], drawn[2], drawn[3]], rel=0.03)


def test_freed_rows_leave_the_pool_for_the_item_that_gets_their_number() -> None:
    pool = pool_of([1, 2, 1, 3])
    pool.forget(np.array([1, 99]))
    assert held(pool) == Counter([2, 3])
    assert set(pool.draw(100, (0,)).tolist()) == {2, 3}
    pool.push(np.array([1]))
    torch.testing.assert_close(
        pool.log_expected(torch.tensor([1, 2]), 10), expected_log(pool, [1, 2], 10)
    )


def test_a_loaded_pool_goes_on_like_the_one_that_was_saved() -> None:
    pool = pool_of([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 1, 4])
    again = NegativePool(10)
    again.push(np.array([77, 77]))
    again.load(pool.state())
    for one in (pool, again):
        one.push(np.array([4, 70]))
    np.testing.assert_array_equal(pool.draw(50, (1,)), again.draw(50, (1,)))
    rows = torch.arange(80)
    assert torch.equal(pool.log_expected(rows, 9), again.log_expected(rows, 9))
    assert again.nbytes > 0
