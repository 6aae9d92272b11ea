"""Initial vectors depend on seed, key and component, and on nothing else."""

import pytest
import torch

from kernels.row_init import initial_rows

KEYS = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 42, 10**15])
PINNED = [
    "-0x1.47d3440000000p-8",
    "-0x1.3b29fa0000000p-8",
    "0x1.517b400000000p-7",
    "-0x1.39eaba0000000p-7",
]


@pytest.mark.parametrize("width", [1, 3, 64, 65])
@pytest.mark.parametrize("seed", [0, 7, -1, 2**63 + 5])
def test_both_backends_give_the_same_bits(width: int, seed: int) -> None:
    fast = initial_rows(KEYS, width, seed, 0.01)
    assert torch.equal(fast, initial_rows(KEYS, width, seed, 0.01, backend="reference"))


def test_a_vector_does_not_depend_on_the_batch_or_on_the_width() -> None:
    rows = initial_rows(KEYS, 64, 1, 0.01)
    assert torch.equal(initial_rows(KEYS.flip(0), 64, 1, 0.01).flip(0), rows)
    assert torch.equal(initial_rows(KEYS[3:4], 16, 1, 0.01)[0], rows[3, :16])


def test_seeds_and_keys_give_unrelated_vectors_of_the_asked_mean_and_deviation() -> None:
    rows = initial_rows(torch.arange(20_000), 64, 1, 0.5)
    assert abs(rows.mean()) < 0.002
    assert abs(rows.std() - 0.5) < 0.002
    assert rows.abs().max() <= 0.5 * 3.4642
    other = initial_rows(torch.arange(20_000), 64, 2, 0.5)
    for related in (rows[1:] * rows[:-1], rows[:, 1:] * rows[:, :-1], rows * other):
        assert abs(related.mean()) < 0.002


def test_the_formula_stands_bit_for_bit() -> None:
    """Changing these values would make saved tables continue differently."""
    row = initial_rows(torch.tensor([42]), 4, 7, 0.01)[0]
    assert [value.hex() for value in row.tolist()] == PINNED


def test_no_keys_give_no_rows() -> None:
    assert initial_rows(KEYS[:0], 8, 0, 0.01).shape == (0, 8)
