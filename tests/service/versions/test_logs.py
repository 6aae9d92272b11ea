"""Logarithms of counts: how far off, and the same again and again."""

import numpy as np
import pytest
import torch

from service.versions import logs


def test_numbers_are_off_by_half_a_step_and_zero_is_zero() -> None:
    draw = np.random.default_rng(0)
    numbers = torch.from_numpy((2.0 ** draw.uniform(-120, 120, (20_000, 3))).astype(np.float32))
    numbers[0] = 0
    again = logs.decode(logs.encode(numbers))
    assert again[0].tolist() == [0, 0, 0]
    octaves = (again[1:].double().log2() - numbers[1:].double().log2()).abs()
    assert octaves.max() <= 1 / 512 + 1e-6
    assert octaves.max() > 1 / 600


def test_every_code_is_that_of_what_it_stands_for() -> None:
    codes = torch.arange(-(2**15) + 257, 2**15 - 256).short()
    codes = torch.cat([codes, torch.tensor([logs.NOTHING]).short()])
    numbers = logs.decode(codes)
    assert numbers.isfinite().all()
    assert logs.encode(numbers).equal(codes)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_what_counts_nothing_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="counts have NaN, infinite or negative"):
        logs.encode(torch.tensor([[1.0, wrong]]))
