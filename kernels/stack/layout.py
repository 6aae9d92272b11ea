"""How weights and histories lie in memory: rows of whole vectors, tables by place."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.attention.buckets import distance_bucket

LANES = 16
"""Numbers of a vector."""

Floats = npt.NDArray[np.float32]


def stacked(layers: Sequence[Tensor]) -> Floats:
    """One array of all layers' float32."""
    # numpy stacks transposed matrices in the order in which they lie.
    return np.ascontiguousarray(np.stack([one.detach().float().numpy() for one in layers]))


def by_place(distance_bias_LP: Floats, furthest: int) -> Floats:
    """Tables of distances with an entry for every distance: the furthest first, then down to 0, and
    room for a vector that begins there."""
    distance_M = torch.arange(furthest, -1, -1)
    table = distance_bias_LP[:, distance_bucket(distance_M).numpy()]
    return np.concatenate([table, np.zeros((len(table), LANES - 1), np.float32)], 1)


def stride(events: int) -> int:
    """Numbers between rows of so many events: an odd number of vectors, which keeps columns in
    different sets of the cache."""
    return (events + LANES - 1) // LANES * LANES | LANES
