"""Decayed counts against naive sums in double precision."""

import numpy as np
import pytest
import torch

from trainer.popularity import Popularity

HALF_LIVES = (1.0, 1_800.0, 86_400.0)
MONTH_MS = 30 * 86_400_000
START_MS = 1_732_096_800_000


def naive(added: list[tuple[int, int]], row: int, at_ms: int) -> list[float]:
    """One term per occurrence and half-life."""
    return [
        sum(2.0 ** -((at_ms - t) / 1000 / half_life) for r, t in added if r == row)
        for half_life in HALF_LIVES
    ]


@pytest.mark.parametrize("largest_gap_ms", [10, 60_000, 86_400_000, 3 * MONTH_MS])
def test_counts_are_exponential_sums_however_long_the_gaps(largest_gap_ms: int) -> None:
    draw, popularity = np.random.default_rng(largest_gap_ms), Popularity(HALF_LIVES)
    added: list[tuple[int, int]] = []
    at_ms = START_MS
    for _ in range(60):
        at_ms += int(draw.integers(0, largest_gap_ms + 1))
        rows = draw.integers(0, 12, int(draw.integers(1, 9)))
        popularity.add(rows, at_ms)
        added += [(row, at_ms) for row in rows.tolist()]
        asked_ms = at_ms + int(draw.integers(0, largest_gap_ms + 1))
        counts = popularity.counts(torch.arange(12), asked_ms)
        expected = [naive(added, row, asked_ms) for row in range(12)]
        torch.testing.assert_close(
            counts, torch.tensor(expected), rtol=1e-5, atol=1e-9
        )  # float32 out of double sums  # fmt: skip


def test_two_years_of_silence_leave_zero_and_no_overflow() -> None:
    popularity = Popularity(HALF_LIVES)
    popularity.add(np.array([3, 3]), START_MS)
    after_ms = START_MS + 24 * MONTH_MS
    assert popularity.counts(torch.tensor([3]), after_ms).max() == 0
    popularity.add(np.array([3]), after_ms)
    torch.testing.assert_close(popularity.counts(torch.tensor([3]), after_ms), torch.ones(1, 3))


def test_nothing_counted_yet_is_zero_for_any_row() -> None:
    assert (
        Popularity(HALF_LIVES).counts(torch.tensor([0, 1000]), START_MS).tolist() == [[0] * 3] * 2
    )


def test_a_time_before_the_last_count_reads_no_more_than_was_counted() -> None:
    popularity = Popularity(HALF_LIVES)
    popularity.add(np.array([1]), START_MS)
    counts = popularity.counts(torch.tensor([1]), START_MS - 5_000)
    assert counts.isfinite().all()
    assert counts.max() <= 1


def test_a_reset_row_starts_anew() -> None:
    popularity = Popularity(HALF_LIVES)
    popularity.add(np.array([1, 2, 2]), START_MS)
    popularity.reset(np.array([2, 500]))
    counts = popularity.counts(torch.tensor([1, 2]), START_MS)
    assert counts.tolist() == [[1] * 3, [0] * 3]


def test_a_loaded_one_goes_on_bit_for_bit() -> None:
    draw, popularity = np.random.default_rng(5), Popularity(HALF_LIVES)
    for step in range(50):
        popularity.add(draw.integers(0, 100, 5), START_MS + step * 40_000)
    again = Popularity(HALF_LIVES)
    again.load({name: tensor.clone() for name, tensor in popularity.state().items()})
    for one in (popularity, again):
        one.add(np.array([7, 120]), START_MS + 10**8)
    for name, tensor in popularity.state().items():
        assert torch.equal(tensor, again.state()[name])
    assert popularity.nbytes > 0


def test_what_was_merely_asked_about_is_not_part_of_the_state() -> None:
    """Otherwise a checkpoint would tell when versions were cut."""
    quiet, asked = Popularity(HALF_LIVES), Popularity(HALF_LIVES)
    for one in (quiet, asked):
        one.add(np.array([1]), START_MS)
    asked.counts(torch.arange(10_000), START_MS)
    for name, tensor in quiet.state().items():
        assert torch.equal(tensor, asked.state()[name])
