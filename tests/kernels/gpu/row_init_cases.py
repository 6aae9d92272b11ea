"""Initial vectors from Triton are the reference's, bit for bit; run by test_interpreted.py and on a
GPU."""

import pytest
import torch

from kernels.row_init import initial_rows
from tests.kernels.gpu.moving import DEVICE

KEYS = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 42, 10**15])


@pytest.mark.parametrize("width", [1, 3, 64, 65])
@pytest.mark.parametrize("seed", [0, 7, -1, 2**63 + 5])
def test_the_bits_are_the_references(width: int, seed: int) -> None:
    rows_ND = initial_rows(KEYS.to(DEVICE), width, seed, 0.01, backend="triton")
    assert torch.equal(rows_ND.cpu(), initial_rows(KEYS, width, seed, 0.01, backend="reference"))


def test_no_keys_give_no_rows() -> None:
    assert initial_rows(KEYS[:0].to(DEVICE), 8, 0, 0.01, backend="triton").shape == (0, 8)


def test_keys_of_another_type_are_refused() -> None:
    with pytest.raises(TypeError, match="one-dimensional int64"):
        initial_rows(KEYS.int().to(DEVICE), 8, 0, 0.01, backend="triton")
