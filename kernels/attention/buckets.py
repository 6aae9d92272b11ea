"""Buckets of distances and of time gaps, read from the bits of a float32.

Exponent and leading mantissa bits decide, never a logarithm, so that every device agrees at the
edges. `distance_bucket` and `time_bucket` are the specification (torch); `*_of` are the same for
one number inside numba loops.
"""

from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

DISTANCE_BUCKETS = 64
"""0 .. 31 exactly, then four per octave up to 8,191."""
TIME_BUCKETS = 64
"""Two per octave of seconds + 1: half a second of resolution at 0, the last from 100 years on."""

_SECONDS = np.float32(0.001)
"""A millisecond; every device multiplies by this very float32."""


def distance_bucket(distance: Tensor) -> Tensor:
    """Bucket (int64) of a distance in events, int64 >= 0."""
    bits = distance.to(torch.float32).view(torch.int32).long()
    coarse = 32 + (bits >> 21) - ((127 + 5) << 2)
    return torch.where(distance < 32, distance, coarse.clamp(max=DISTANCE_BUCKETS - 1))


def time_bucket(gap_ms: Tensor) -> Tensor:
    """Bucket (int64) of a time gap in milliseconds, int64; negative gaps count as 0."""
    seconds_plus_one = (gap_ms.clamp(min=0) + 1000).to(torch.float32) * float(_SECONDS)
    bits = seconds_plus_one.view(torch.int32).long()
    return torch.clamp((bits >> 22) - (127 << 1), 0, TIME_BUCKETS - 1)


def _bitcast(typing_context: Any, value: Any) -> Any:
    """The bits of a float32 as an int32; numba has no such cast of its own."""

    def cast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int32))

    return types.int32(types.float32), cast


_float_bits: Any = intrinsic(_bitcast)


@njit(cache=True, nogil=True, inline="always")
def distance_bucket_of(distance: Any) -> Any:
    """`distance_bucket` of one number."""
    if distance < 32:
        return distance
    return min(32 + (_float_bits(np.float32(distance)) >> 21) - ((127 + 5) << 2), 63)


@njit(cache=True, nogil=True, inline="always")
def time_bucket_of(gap_ms: Any) -> Any:
    """`time_bucket` of one number."""
    seconds_plus_one = np.float32(max(gap_ms, 0) + 1000) * _SECONDS
    bucket = (_float_bits(seconds_plus_one) >> 22) - (127 << 1)
    return min(max(bucket, 0), 63)
