"""All layers for the rows of one user, in one call outside the interpreter.

Rows go through a layer in panels, and a panel's products in strips of the matrix, so that both stay
in the caches. An element's sum always runs in the same order: neither panels nor other rows change
a row's result by a bit.
"""

import numpy as np
from numba import njit

from kernels.attention.cpu.tiles import ROWS, VECTORS, product
from kernels.attention.cpu.vectors import LANES, address, whole
from kernels.attention.cpu.weights import biases, time_buckets, weigh
from kernels.stack.rows import activate, add, add_own, normalise

PANEL = 64
"""Rows whose projection is kept at a time."""
STRIP = LANES * VECTORS
"""Columns of a matrix that all rows of a panel meet before the next ones."""


@njit(cache=True, nogil=True)
def _products(a, a_row, b, b_row, to, to_row, rows, columns, depth):
    """to = a @ b for any number of rows."""
    for c in range(0, columns, STRIP):
        some = min(STRIP, columns - c)
        for r in range(0, rows, ROWS):
            product(
                a + 4 * r * a_row, a_row, 1, b + 4 * c, b_row, to + 4 * (r * to_row + c), to_row,
                min(ROWS, rows - r), some, depth, 0,
            )  # fmt: skip


@njit(cache=True, nogil=True)
def _projected(x, rows, dim, weight, bias, first, parts, normed, to, eps):
    """Columns `first` .. of SiLU(W1 LN(x) + b), rows of `to` are `parts` long."""
    for i in range(rows):
        normalise(normed + 4 * i * dim, x + 4 * i * dim, 0, dim, eps)
    columns = parts - first
    _products(normed, dim, weight + 4 * first, parts, to + 4 * first, parts, rows, columns, dim)
    for i in range(rows):
        activate(to + 4 * (i * parts + first), bias + 4 * first, columns)


@njit(cache=True, nogil=True)
def _mixed(x, rows, dim, wide, attended, parts_at, parts, weight, bias, gated, out, eps):
    """x += W2 (LN(attended) * U) + b; U are the first columns of the projection."""
    for i in range(rows):
        row = 4 * i * wide
        normalise(gated + row, attended + row, parts_at + 4 * i * parts, wide, eps)
    _products(gated, wide, weight, dim, out, dim, rows, dim, wide)
    for i in range(rows):
        add(x + 4 * i * dim, out + 4 * i * dim, bias, dim)


@njit(cache=True, nogil=True)
def _attended(
    q, q_row, rows, keys, stride, values, bias, bias_row, limit, step, width, value_width, alpha,
    scale, scores, to, to_row,
):  # fmt: skip
    """Of up to 8 rows and one head. Row i sees `limit + step * i` events."""
    extent = limit + step * (rows - 1)
    product(q, q_row, 1, keys, stride, scores, stride, rows, extent, width, 0)
    for i in range(rows):
        weigh(
            scores + 4 * i * stride, bias + 4 * i * bias_row, limit + step * i, extent, alpha, scale
        )
    product(scores, stride, 1, values, value_width, to, to_row, rows, value_width, extent, 0)


@njit(cache=True, nogil=True)
def ask(
    share, shares, x_RD, alone, at_ms, at_ms_T, keys_LHKS, values_LHTV, project_LDP,
    project_bias_LP, output_LWD, output_bias_LD, near_LM, when_LS, own_L, alpha, scale, eps,
    weighed_RT,
):  # fmt: skip
    """The last layer's rows in the place of x, of every `shares` panels one. The first `alone`
    rows do not see themselves."""
    layers, heads, width, stride = keys_LHKS.shape
    events, value_width = values_LHTV.shape[2], values_LHTV.shape[3]
    rows, dim = x_RD.shape
    parts, wide, nearest = project_LDP.shape[2], heads * value_width, near_LM.shape[1] - LANES
    q_first, k_first = wide, wide + heads * width
    v_first = k_first + heads * width
    buckets, bias = np.empty(whole(events), np.uint8), np.empty(whole(events), np.float32)
    projected = np.empty((PANEL, parts), np.float32)
    narrow, broad = np.empty((2, PANEL, dim), np.float32), np.empty((2, PANEL, wide), np.float32)
    scores = np.empty((ROWS, stride), np.float32)
    time_buckets(address(buckets), at_ms, address(at_ms_T), events)
    for n in range(layers):
        near = address(near_LM[n]) + 4 * (nearest - events)
        biases(address(bias), near, address(buckets), address(when_LS[n]), events)
        for r in range(PANEL * share, rows, PANEL * shares):
            some, x = min(PANEL, rows - r), address(x_RD) + 4 * r * dim
            normed, out = address(narrow[0]), address(narrow[1])
            attended, gated, its = address(broad[0]), address(broad[1]), address(projected)
            _projected(
                x, some, dim, address(project_LDP[n]), address(project_bias_LP[n]), 0, parts,
                normed, its, eps,
            )  # fmt: skip
            for h in range(heads):
                keys, values = address(keys_LHKS[n, h]), address(values_LHTV[n, h])
                q, k, v = (
                    its + 4 * (q_first + h * width), its + 4 * (k_first + h * width),
                    its + 4 * (v_first + h * value_width),
                )  # fmt: skip
                to = attended + 4 * h * value_width
                for i in range(0, some, ROWS):
                    count, row, there = min(ROWS, some - i), 4 * i * parts, to + 4 * i * wide
                    _attended(
                        q + row, parts, count, keys, stride, values, address(bias), 0, events, 0,
                        width, value_width, alpha, scale, address(scores), there, wide,
                    )  # fmt: skip
                    if len(weighed_RT):
                        _weighed(scores, values_LHTV[n, h], weighed_RT[r + i : r + i + count])
                    for j in range(count):
                        if r + i + j >= alone:
                            row_j = row + 4 * j * parts
                            add_own(
                                there + 4 * j * wide, q + row_j, k + row_j, v + row_j, width,
                                value_width, alpha, own_L[n], scale,
                            )  # fmt: skip
            _mixed(
                x, some, dim, wide, attended, its, parts, address(output_LWD[n]),
                address(output_bias_LD[n]), gated, out, eps,
            )  # fmt: skip


@njit(cache=True, nogil=True)
def _weighed(scores, values_TV, weighed_RT):
    """weighed += |weight| * |value|."""
    for t in range(len(values_TV)):
        length = np.sqrt(np.sum(values_TV[t] * values_TV[t]))
        for i in range(len(weighed_RT)):
            weighed_RT[i, t] += np.abs(scores[i, t]) * length


@njit(cache=True, nogil=True)
def read(
    x_ND, at_ms_T, keys_LHKS, values_LHTV, project_LDP, project_bias_LP, output_LWD,
    output_bias_LD, near_LM, when_LS, alpha, scale, eps,
):  # fmt: skip
    """Fill in the last N events of keys and values; x is used up."""
    layers, heads, width, stride = keys_LHKS.shape
    events, value_width = values_LHTV.shape[2], values_LHTV.shape[3]
    (rows, dim), before = x_ND.shape, values_LHTV.shape[2] - len(x_ND)
    parts, wide, nearest = project_LDP.shape[2], heads * value_width, near_LM.shape[1] - LANES
    q_first, k_first = wide, wide + heads * width
    v_first = k_first + heads * width
    buckets, bias = np.empty(whole(events), np.uint8), np.empty((ROWS, stride), np.float32)
    projected = np.empty((PANEL, parts), np.float32)
    narrow, broad = np.empty((2, PANEL, dim), np.float32), np.empty((2, PANEL, wide), np.float32)
    scores = np.empty((ROWS, stride), np.float32)
    normed, out = address(narrow[0]), address(narrow[1])
    attended, gated, its = address(broad[0]), address(broad[1]), address(projected)
    for n in range(layers):
        last = n + 1 == layers  # of whose rows others see keys and values, and nobody asks the rest
        for r in range(0, rows, PANEL):
            some, x = min(PANEL, rows - r), address(x_ND) + 4 * r * dim
            _projected(
                x, some, dim, address(project_LDP[n]), address(project_bias_LP[n]),
                k_first if last else 0, parts, normed, its, eps,
            )  # fmt: skip
            for i in range(some):
                t = before + r + i
                for h in range(heads):
                    for c in range(width):
                        keys_LHKS[n, h, c, t] = projected[i, k_first + h * width + c]
                    for c in range(value_width):
                        values_LHTV[n, h, t, c] = projected[i, v_first + h * value_width + c]
            if last:
                continue
            for i in range(0, some, ROWS):
                count, first = min(ROWS, some - i), before + r + i
                for j in range(count):
                    t = first + j
                    time_buckets(address(buckets), at_ms_T[t], address(at_ms_T), t + 1)
                    near = address(near_LM[n]) + 4 * (nearest - t)
                    biases(
                        address(bias[j]), near, address(buckets), address(when_LS[n]), t + 1
                    )  # fmt: skip
                for h in range(heads):
                    q = its + 4 * (i * parts + q_first + h * width)
                    _attended(
                        q, parts, count, address(keys_LHKS[n, h]), stride,
                        address(values_LHTV[n, h]), address(bias), stride, first + 1, 1, width,
                        value_width, alpha, scale, address(scores),
                        attended + 4 * (i * wide + h * value_width), wide,
                    )  # fmt: skip
            _mixed(
                x, some, dim, wide, attended, its, parts, address(output_LWD[n]),
                address(output_bias_LD[n]), gated, out, eps,
            )  # fmt: skip


@njit(cache=True, nogil=True)
def heads(x_RD, weight_DA, bias_A, eps):
    """LN(x) [R, D] and LN(x) @ weight + bias [R, A]."""
    (rows, dim), heads = x_RD.shape, weight_DA.shape[1]
    normed_RD, out_RA = np.empty((rows, dim), np.float32), np.empty((rows, heads), np.float32)
    for r in range(rows):
        normalise(address(normed_RD[r]), address(x_RD[r]), 0, dim, eps)
    _products(
        address(normed_RD), dim, address(weight_DA), heads, address(out_RA), heads, rows, heads,
        dim,
    )  # fmt: skip
    out_RA += bias_A
    return normed_RD, out_RA
