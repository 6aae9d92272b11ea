"""Many programs at once: what they do must be what one after the other would.

Triton's interpreter runs programs in turn, so that only a GPU can fail here: at sizes that fill it.
The interpreter runs tiny ones.
"""

from dataclasses import dataclass

import pytest
import torch

from kernels.gpu import INTERPRETED
from kernels.key_index import key_index
from kernels.key_index.gpu import TritonIndex
from kernels.row_init import initial_rows
from kernels.rows import Adagrad, Adam, Decay, Optimizer, row_table
from kernels.rows.gpu import TritonRows
from tests.kernels.gpu.moving import DEVICE, Moved

NOW_MS = 10**12
DECAY = Decay(3_600_000, Decay.landmark_for(3_600_000, NOW_MS), NOW_MS)


@dataclass(frozen=True)
class Size:
    """Keys of a batch, batches, and the width of rows."""

    batch: int
    batches: int
    width: int


SIZE = Size(300, 2, 8) if INTERPRETED else Size(1 << 19, 4, 128)


def keys_of(kind: str, seed: int) -> torch.Tensor:
    """All the same but a few, everything twice, or all different."""
    make = torch.Generator().manual_seed(seed)
    n = SIZE.batch
    if kind == "crowded":
        return torch.randint(0, 50, (n,), generator=make) ** 3
    if kind == "in pairs":
        return torch.randperm(n, generator=make) // 2 * 0x9E3779B97F4A7C1 + seed % 2
    return torch.randint(-(2**62), 2**62, (n,), generator=make)


@pytest.mark.parametrize("kind", ["crowded", "in pairs", "all new"])
def test_inserts_removals_and_lookups_at_once_are_those_of_a_dict(kind: str) -> None:
    reference, index = key_index("reference"), Moved(TritonIndex(DEVICE))
    for turn in range(SIZE.batches):
        keys = keys_of(kind, turn)
        for found, expected in zip(index.insert(keys), reference.insert(keys), strict=True):
            assert torch.equal(found, expected)
        gone = keys[:: turn + 2]
        assert torch.equal(index.remove(gone), reference.remove(gone))
        assert torch.equal(index.lookup(keys), reference.lookup(keys))
    assert torch.equal(index.keys(), reference.keys())
    assert len(index) == len(reference)


@pytest.mark.parametrize("optimizer", [Adam(0.05), Adagrad(0.05)])
def test_steps_on_crowded_rows_repeat_to_the_bit_and_are_the_references(
    optimizer: Optimizer,
) -> None:
    make = torch.Generator().manual_seed(0)
    n, moments = SIZE.batch // 4, isinstance(optimizer, Adam)
    rows_N = (torch.rand(n, generator=make) ** 6 * n).long() + 1
    grads_ND = torch.randn(n, SIZE.width, generator=make)
    at_ms_N = NOW_MS + torch.randint(0, 10**6, (n,), generator=make)
    tables = [Moved(TritonRows(SIZE.width, moments, DEVICE)) for _ in range(2)]
    reference = row_table(SIZE.width, moments, "reference")
    for table in (*tables, reference):
        table.extend(n + 2)
        table.touch(rows_N, at_ms_N, DECAY)
        table.step(rows_N, grads_ND, optimizer, DECAY)
    used_M = torch.unique(rows_N)
    first, second, expected = (table.take(used_M) for table in (*tables, reference))
    for name, values in expected.items():
        assert torch.equal(first[name], second[name]), name
        # Hot rows sum thousands of gradients, each side in its own order.
        torch.testing.assert_close(first[name], values, rtol=1e-3, atol=1e-4, msg=name)


def test_initial_vectors_of_many_keys_are_the_references() -> None:
    keys = keys_of("all new", 9)
    found = initial_rows(keys.to(DEVICE), SIZE.width, 7, 0.01, backend="triton")
    assert torch.equal(found.cpu(), initial_rows(keys, SIZE.width, 7, 0.01, backend="numba"))
