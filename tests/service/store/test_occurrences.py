"""Small passes over a batch: the CPU's loops and torch's operations say the same."""

import numpy as np
import pytest
import torch

from kernels.mixing import mix64
from service.store.draws import below, mixed, word
from service.store.occurrences import (
    MOST_OCCURRENCES,
    _count_up_sorted,
    count_up,
    number_from_one,
    of_first_keys,
    since_first,
)
from tests.service.store.tables import longs

CPU = torch.device("cpu")


def test_rows_are_numbered_from_one_and_absent_ones_found() -> None:
    rows_N = longs(4, -1, 0, -1)
    absent_A = number_from_one(rows_N)
    assert absent_A is not None
    assert (rows_N.tolist(), absent_A.tolist()) == ([5, 0, 1, 0], [1, 3])
    assert number_from_one(longs(3, 0)) is None
    assert number_from_one(longs()) is None


@pytest.mark.parametrize("count", [count_up, _count_up_sorted])
def test_every_occurrence_counts_up_to_the_most(count: object) -> None:
    counts_R = torch.tensor([0, 5, MOST_OCCURRENCES - 1], dtype=torch.int32)
    nth_A = count(counts_R, longs(1, 0, 1, 2, 2, 1))  # type: ignore[operator]
    assert nth_A.tolist() == [6, 1, 7, MOST_OCCURRENCES, MOST_OCCURRENCES, 8]
    assert counts_R.tolist() == [1, 8, MOST_OCCURRENCES]


def test_both_ways_to_count_agree() -> None:
    generator = torch.Generator().manual_seed(2)
    rows_A = torch.randint(40, (1000,), generator=generator)
    counts_R = torch.randint(9, (40,), generator=generator, dtype=torch.int32)
    other_R = counts_R.clone()
    assert torch.equal(count_up(counts_R, rows_A), _count_up_sorted(other_R, rows_A))
    assert torch.equal(counts_R, other_R)


def test_a_key_is_hit_from_its_first_hit_on() -> None:
    keys_A = longs(7, 8, 7, 9, 8, 7)
    hits_A = torch.tensor([False, True, True, False, False, False])
    assert since_first(hits_A, keys_A).tolist() == [False, True, True, False, True, True]


def test_the_first_keys_are_those_that_come_first() -> None:
    keys_A = longs(9, 3, 9, 5, 3, 1)
    assert of_first_keys(keys_A, 2).tolist() == [True, True, True, False, True, False]
    assert not of_first_keys(keys_A, 0).any()


def test_bits_are_those_of_the_mixer() -> None:
    words = [0, 1, -1, 2**63 - 1, -(2**63), 1234567890123456789]
    assert mixed(longs(*words)).tolist() == [word(int(mix64(np.uint64(w % 2**64)))) for w in words]
    assert [word(w % 2**64) for w in words] == words


def test_draws_fill_their_range_and_follow_the_seed() -> None:
    drawn = below(100, 10_000, 5, 0, device=CPU)
    assert torch.bincount(drawn, minlength=100).min() > 50
    assert len(drawn.bincount()) == 100
    assert torch.equal(drawn, below(100, 10_000, 5, 0, device=CPU))
    assert not torch.equal(drawn, below(100, 10_000, 5, 1, device=CPU))
    assert not torch.equal(drawn, below(100, 10_000, 6, 0, device=CPU))
