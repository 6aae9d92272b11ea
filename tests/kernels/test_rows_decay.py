"""Decayed counts: the same bits everywhere, exact moves of the landmark, what they mean."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.rows import Decay, row_table

DAY_MS = 86_400_000
HALF_LIVES_MS = [1, 3, 1000, 7 * DAY_MS + 1, 2**47]
NOW_MS = 1_790_000_000_000


def times_around(decay: Decay) -> Tensor:
    """Near and far from the landmark, at the steps' edges, and as far as int64 goes."""
    half_life_ms = decay.half_life_ms or 1
    steps = [-(2**15), -127 * 256, -126 * 256, -1, 0, 1, 5, 255, 256, 257, 120 * 256, 2**15]
    near = {
        decay.landmark_ms + step * half_life_ms // 256 + d for step in steps for d in (-1, 0, 1)
    }
    drawn = torch.randint(-130, 125, (500,), generator=torch.Generator().manual_seed(1)).tolist()
    near |= {decay.landmark_ms + n * half_life_ms + 7 * n for n in drawn}
    return torch.tensor([*sorted(near), -(2**63), 2**63 - 1])


def plain_weight(at_ms: int, decay: Decay) -> np.float32:
    """By the formula, in whole numbers of any size."""
    assert decay.half_life_ms
    k = (at_ms - decay.landmark_ms) * 256 // decay.half_life_ms
    k = min(max(k, -126 * 256), 120 * 256)
    return np.float32(2.0 ** (k % 256 / 256)) * np.float32(2.0 ** (k // 256))


@pytest.mark.parametrize("half_life_ms", HALF_LIVES_MS)
@pytest.mark.parametrize("landmark_ms", [0, NOW_MS, -NOW_MS])
def test_weights_are_the_formulas_bits_in_python_torch_and_numba(
    half_life_ms: int, landmark_ms: int
) -> None:
    decay = Decay(half_life_ms, landmark_ms)
    at_ms = times_around(decay)
    expected = torch.tensor(np.array([plain_weight(at, decay) for at in at_ms.tolist()]))
    assert torch.equal(decay.weights(at_ms), expected)
    table = row_table(1, False)
    table.extend(len(at_ms) + 1)
    table.touch(torch.arange(1, len(at_ms) + 1), at_ms, decay)
    assert torch.equal(table.column("weight")[1:], expected)


def test_without_a_half_life_every_occurrence_weighs_one() -> None:
    decay = Decay(None)
    at_ms = torch.tensor([-(2**63), 0, NOW_MS, 2**63 - 1])
    assert decay.weights(at_ms).tolist() == [1, 1, 1, 1]
    for backend in ("reference", "numba"):
        table = row_table(1, False, backend)
        table.extend(2)
        table.touch(torch.ones(4, dtype=torch.int64), at_ms, decay)
        assert table.column("weight").tolist() == [0, 4]
    assert decay.count(torch.tensor([4.0]), NOW_MS).tolist() == [4]
    assert Decay.landmark_for(None, NOW_MS) == 0
    assert decay.moved_to(NOW_MS) == (Decay(None, NOW_MS), 1)


def test_an_occurrence_counts_half_after_a_half_life() -> None:
    decay = Decay(DAY_MS, Decay.landmark_for(DAY_MS, NOW_MS))
    weights = decay.weights(torch.tensor([NOW_MS, NOW_MS - DAY_MS, NOW_MS - 3 * DAY_MS]))
    assert decay.count(weights, NOW_MS).tolist() == [1, 0.5, 0.125]
    assert decay.count(weights, NOW_MS + DAY_MS).tolist() == [0.5, 0.25, 0.0625]
    within = decay.count(decay.weights(torch.tensor([NOW_MS - DAY_MS // 3])), NOW_MS)
    assert float(within) == pytest.approx(2 ** (-1 / 3), rel=1 / 256)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_sums_of_weights_are_the_same_bits_on_every_backend(backend: str) -> None:
    decay = Decay(1000, 0)
    at_ms = torch.randint(20_000, (10_000,), generator=torch.Generator().manual_seed(2))
    rows = torch.arange(10_000) % 3 + 1
    table = row_table(1, False, backend)
    table.extend(4)
    table.touch(rows, at_ms, decay)
    sums = [np.float32(0)] * 4
    for row, weight in zip(rows.tolist(), decay.weights(at_ms).numpy(), strict=True):
        sums[row] += weight
    assert table.column("weight").tolist() == [float(total) for total in sums]


@pytest.mark.parametrize("half_life_ms", [1, 1000, 7 * DAY_MS])
def test_moving_the_landmark_rescales_by_an_exact_power_of_two(half_life_ms: int) -> None:
    every_ms = 64 * half_life_ms
    landmark_ms = Decay.landmark_for(half_life_ms, NOW_MS)
    assert landmark_ms % every_ms == 0
    assert 0 <= NOW_MS - landmark_ms < every_ms
    decay = Decay(half_life_ms, landmark_ms, NOW_MS)
    moved, factor = decay.moved_to(landmark_ms + every_ms)
    assert moved == Decay(half_life_ms, landmark_ms + every_ms, NOW_MS)
    assert factor == 2.0**-64
    at_ms = landmark_ms + torch.arange(40) * half_life_ms
    assert torch.equal(decay.weights(at_ms) * factor, moved.weights(at_ms))
    later_ms = landmark_ms + every_ms + 5 * half_life_ms
    old_counts = decay.count(decay.weights(at_ms), later_ms)
    assert torch.equal(old_counts, moved.count(moved.weights(at_ms), later_ms))
    assert moved.moved_to(landmark_ms) == (decay, 2.0**64)
    assert decay.moved_to(landmark_ms + 10**6 * every_ms)[1] == 0


def test_a_landmark_between_half_lives_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1500 ms is no whole number of half-lives of 1000 ms"):
        Decay(1000).moved_to(1500)


@pytest.mark.parametrize("half_life_ms", [0, -5, 2**47 + 1])
def test_a_half_life_without_meaning_is_refused(half_life_ms: int) -> None:
    with pytest.raises(ValueError, match="outside 1"):
        Decay(half_life_ms)


def test_a_landmark_beyond_time_is_refused() -> None:
    with pytest.raises(ValueError, match="landmark"):
        Decay(1000, 2**63)


def test_counts_stay_finite_for_weights_of_the_far_future() -> None:
    decay = Decay(1, 0)
    weights = decay.weights(torch.tensor([2**62])) * 255
    assert math.isfinite(float(weights))
