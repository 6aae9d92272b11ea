"""Loops over the rows of a server's item slot: lengths and logits.

A row's codes name the categories whose mean is part of its vector; `of_codes` are the products of
their vectors with the user's, 0 for no category, so that no sum is made. Where no row has any,
both are empty.
"""

from typing import Any

import numpy as np
from numba import njit

from kernels.row_codes.cpu import half
from kernels.row_dots import dot_codes, dot_codes4, dot_floats, dot_halves
from service.model.categories import SLOTS
from service.model.vectors import FP16, FP32, INT4, INT8

EPS = np.float32(1e-6)
"""Shortest vector that has a direction."""


@njit(cache=True, nogil=True)
def inverses(vectors: Any, width: Any, inverse: Any) -> None:
    for r in range(len(inverse)):
        inverse[r] = _inverse_length(vectors, np.uint64(r) * width, width)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _inverse_length(vectors: Any, base: Any, width: Any) -> Any:
    total = np.float32(0)
    for d in range(width):
        total += vectors[base + d] * vectors[base + d]
    return np.float32(1) / max(np.sqrt(total), EPS)


@njit(cache=True, nogil=True)
def coded_inverses(vectors: Any, width: Any, codes: Any, weights: Any, inverse: Any) -> None:
    whole = np.empty(width, np.float32)
    for r in range(len(inverse)):
        whole[:] = 0
        used = 0
        for k in range(SLOTS):
            code = np.uint64(codes[r * SLOTS + k])
            if code:
                used += 1
                for d in range(width):
                    whole[d] += weights[code * width + d]
        share = np.float32(1) / np.float32(max(used, 1))
        for d in range(width):
            whole[d] = vectors[np.uint64(r) * width + d] + whole[d] * share
        inverse[r] = _inverse_length(whole, np.uint64(0), width)


@njit(cache=True, nogil=True)
def mean_of_codes(codes: Any, row: Any, of_codes: Any) -> Any:
    """What the categories of a row add to its product."""
    total, used = np.float32(0), 0
    for k in range(SLOTS):
        code = np.uint64(codes[row * np.uint64(SLOTS) + np.uint64(k)])
        total += of_codes[code]
        used += code != 0
    return total / np.float32(max(used, 1))


@njit(cache=True, nogil=True)
def dot(kind: Any, at: Any, width: Any, wide: Any, low: Any, user_at: Any) -> Any:
    """The product of a row as it decodes, and the user's vector; the same bits by any precision.

    wide, low: scale and bias, of codes. No arrays are passed: compiled code counts references to
    them, which takes longer than the product.
    """
    if kind == INT8:
        return dot_codes(at, user_at, width, wide, low)
    if kind == FP32:
        return dot_floats(at, user_at, width)
    if kind == FP16:
        return dot_halves(at, user_at, width)
    return dot_codes4(at, user_at, width, wide, low)


@njit(cache=True, nogil=True)
def logits_of_all(
    table: Any, inverse: Any, prior: Any, codes: Any, of_codes: Any, user: Any, out: Any
) -> None:
    logits_of(table, inverse, prior, codes, of_codes, user, np.arange(len(out)), out)


@njit(cache=True, nogil=True)
def logits_of(
    table: Any, inverse: Any, prior: Any, codes: Any, of_codes: Any, user: Any, rows: Any, out: Any
) -> None:
    kind, data, scale, bias, row_bytes, width = table
    data_at, user_at = np.uint64(data.ctypes.data), np.uint64(user.ctypes.data)
    wide, low = np.float32(0), np.float32(0)
    for i in range(len(out)):
        r = np.uint64(rows[i])
        if kind in (INT8, INT4):
            wide, low = half(scale[r]), half(bias[r])
        product = dot(kind, data_at + r * row_bytes, width, wide, low, user_at)
        if len(of_codes):
            product += mean_of_codes(codes, r, of_codes)
        out[i] = product * inverse[r] + prior[r]


@njit(cache=True, nogil=True)
def add_if_seen(logits: Any, rows: Any, seen_rows: Any, more: Any) -> None:
    """Add to the logits of rows that are among `seen_rows`, which ascend."""
    for i in range(len(rows)):
        place = np.searchsorted(seen_rows, rows[i])
        if place < len(seen_rows) and seen_rows[place] == rows[i]:
            logits[i] += more
