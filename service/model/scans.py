"""Loops over the rows of a server's item slot: lengths, logits, and changes in place.

Rows lie flat, one after another. A row's codes name the categories whose mean is part of its
vector; `of_codes` are the products of their vectors with the user's, so that no sum is made.
"""

from typing import Any

import numpy as np
from numba import njit

from service.model.categories import SLOTS

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
def _mean_of_codes(codes: Any, row: Any, of_codes: Any) -> Any:
    """What the categories of a row add to its product."""
    total, used = np.float32(0), 0
    for k in range(SLOTS):
        code = np.uint64(codes[row * np.uint64(SLOTS) + np.uint64(k)])
        if code:
            total += of_codes[code]
            used += 1
    return total / np.float32(max(used, 1))


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(vectors: Any, base: Any, width: Any, user: Any) -> Any:
    """Sums in lanes, in an order that depends on the width alone."""
    total = np.float32(0)
    for d in range(width):
        total += vectors[base + d] * user[d]
    return total


@njit(cache=True, nogil=True)
def logits_of_all(vectors: Any, width: Any, inverse: Any, prior: Any, user: Any, out: Any) -> None:
    for r in range(len(out)):
        out[r] = _dot(vectors, np.uint64(r) * width, width, user) * inverse[r] + prior[r]


@njit(cache=True, nogil=True)
def logits_of(
    vectors: Any, width: Any, inverse: Any, prior: Any, user: Any, rows: Any, out: Any
) -> None:
    for i in range(len(out)):
        r = np.uint64(rows[i])
        out[i] = _dot(vectors, r * width, width, user) * inverse[r] + prior[r]


@njit(cache=True, nogil=True)
def coded_logits_of_all(
    vectors: Any, width: Any, inverse: Any, prior: Any, codes: Any, of_codes: Any, user: Any,
    out: Any,
) -> None:  # fmt: skip
    for i in range(len(out)):
        r = np.uint64(i)
        product = _dot(vectors, r * width, width, user) + _mean_of_codes(codes, r, of_codes)
        out[i] = product * inverse[r] + prior[r]


@njit(cache=True, nogil=True)
def coded_logits_of(
    vectors: Any, width: Any, inverse: Any, prior: Any, codes: Any, of_codes: Any, user: Any,
    rows: Any, out: Any,
) -> None:  # fmt: skip
    for i in range(len(out)):
        r = np.uint64(rows[i])
        product = _dot(vectors, r * width, width, user) + _mean_of_codes(codes, r, of_codes)
        out[i] = product * inverse[r] + prior[r]


@njit(cache=True, nogil=True)
def clear(vectors: Any, inverse: Any, counts: Any, width: Any, rows: Any) -> None:
    half_lives = np.uint64(len(counts) // len(inverse))
    for i in range(len(rows)):
        r = np.uint64(rows[i])
        vectors[r * width : (r + np.uint64(1)) * width] = 0
        counts[r * half_lives : (r + np.uint64(1)) * half_lives] = 0
        inverse[r] = 0


@njit(cache=True, nogil=True)
def write(
    vectors: Any, inverse: Any, counts: Any, width: Any, rows: Any,
    new_vectors: Any, new_inverse: Any, new_counts: Any,
) -> None:  # fmt: skip
    half_lives = np.uint64(len(counts) // len(inverse))
    for i in range(len(rows)):
        r, source = np.uint64(rows[i]), np.uint64(i)
        for d in range(width):
            vectors[r * width + d] = new_vectors[source * width + d]
        for p in range(half_lives):
            counts[r * half_lives + p] = new_counts[source * half_lives + p]
        inverse[r] = new_inverse[source]
