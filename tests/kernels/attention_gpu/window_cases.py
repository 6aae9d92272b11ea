"""The Triton attention on a window of 8,192, without biases, and twice over: on a GPU. In the
interpreter the same code runs at tiny sizes, where it proves little.
"""

import pytest
import torch

from kernels.gpu import INTERPRETED
from tests.kernels.attention_gpu.poison import poison_empty_memory
from tests.kernels.attention_gpu.size_cases import (
    HEADS,
    LENGTHS,
    NAMES,
    RELATIVE,
    WIDTHS,
    assert_like_the_reference,
    batch_of,
    with_gradients,
)

LONGEST = 9 if INTERPRETED else 8192


@pytest.fixture(autouse=True)
def _empty_memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_empty_memory(monkeypatch)


@pytest.mark.parametrize("width", WIDTHS[1:3])
def test_no_bias_at_the_edges_of_tiles(width: int) -> None:
    assert_like_the_reference(batch_of(LENGTHS, HEADS, width, torch.bfloat16), biased=False)


@pytest.mark.parametrize("dtype", RELATIVE)
def test_the_longest_window(dtype: torch.dtype) -> None:
    assert_like_the_reference(batch_of((LONGEST, 2), 1, WIDTHS[0], dtype))


def test_two_runs_of_a_full_device_are_bit_identical() -> None:
    users = 1 if INTERPRETED else 16
    batch = batch_of([LONGEST // 4] * users, HEADS, WIDTHS[0], torch.bfloat16)
    first, second = (with_gradients(batch, "triton") for _ in range(2))
    for name, a, b in zip(NAMES, first, second, strict=True):
        assert torch.equal(a, b), name
