"""Both passes: the users of every `parts`-th part, 8 rows and one head at a time.

Queries meet transposed keys, 16 events in a vector; values, keys and gradients are read as they
lie. Only events that some row of a tile sees are computed. Bias is looked up once for all heads.
"""

import numpy as np
from numba import njit

from kernels.attention.cpu.tiles import ROWS, dots, product, transpose
from kernels.attention.cpu.vectors import LANES, address, whole
from kernels.attention.cpu.weights import (
    add_to_distances,
    add_to_times,
    biases,
    derive,
    weigh,
)

BLOCK = 32
"""Rows whose weights the backward pass keeps until events have gathered their gradients."""


@njit(cache=True, nogil=True)
def _stride(count):
    """Numbers between rows of `count`: an odd number of vectors, which keeps columns in different
    sets of the cache."""
    return whole(count) | LANES


@njit(cache=True, nogil=True)
def forward_scratch(heads, width, most):
    """float32s that `forward` needs."""
    return _stride(most) * (heads * whole(width) + 2 * ROWS)


@njit(cache=True, nogil=True)
def backward_scratch(heads, width, value_width, most):
    """float32s that `backward` needs."""
    return _stride(most) * (heads * (whole(width) + whole(value_width)) + 4 * BLOCK)


@njit(cache=True, nogil=True)
def _most_seen(limit, start, end, events):
    seen = 0
    for r in range(start, end):
        seen = max(seen, min(limit[r], events))
    return seen


@njit(cache=True, nogil=True)
def _transposed(source, source_row, seen, width, to, stride):
    """For `_scores`, unless all rows are short."""
    if seen > LANES:
        transpose(source, source_row, seen, width, to, stride)


@njit(cache=True, nogil=True)
def _scores(a, width, heads, b, transposed, stride, to, limit, r, rows, events, extent):
    """to[i, j] = a[i] . b[j] for rows r .. of a head and the events that they see.

    A row that sees at most 16 is computed by itself, whatever its neighbours see: for a short
    history, transposing it would take longer than all the rest.
    """
    step = heads * width
    if extent > LANES:
        product(
            a, step, 1, transposed, stride, to, stride, rows, whole(extent), width, 0
        )  # fmt: skip
    for i in range(rows):
        own = min(limit[r + i], events)
        if own <= LANES:
            dots(a + 4 * i * step, b, step, to + 4 * i * stride, own, width)


@njit(cache=True, nogil=True)
def forward(
    part, parts, q, k, v, by_distance, nearest, by_time, row_ends, position, limit, event_ends,
    cuts, starts, entries, alpha, scale, scratch, out,
):  # fmt: skip
    heads, width, value_width = q.shape[1], q.shape[2], v.shape[2]
    q_row, v_row = heads * width, heads * value_width
    q_at, k_at, v_at, out_at = address(q), address(k), address(v), address(out)
    distance_at, entries_at = address(by_distance) + 4 * nearest, address(entries)
    time_at = address(by_time) if len(by_time) else np.int64(0)
    bias_at = np.empty(ROWS, np.int64)
    for p in range(part, len(cuts) - 1, parts):
        for b in range(cuts[p], cuts[p + 1]):
            first, events = event_ends[b], event_ends[b + 1] - event_ends[b]
            start, end = row_ends[b], row_ends[b + 1]
            seen = _most_seen(limit, start, end, events)
            stride = _stride(seen)
            keys = address(scratch)
            keys_size = 4 * whole(width) * stride
            scores = keys + heads * keys_size
            bias = scores + 4 * ROWS * stride
            for h in range(heads):
                key = k_at + 4 * (first * q_row + h * width)
                _transposed(key, q_row, seen, width, keys + h * keys_size, stride)
            looked_up, slot = -1, 0
            for r in range(start, end, ROWS):
                rows = min(ROWS, end - r)
                extent = _most_seen(limit, r, r + rows, events)
                for i in range(rows):
                    if starts[r + i] != looked_up:  # else as the row before it
                        looked_up, slot = starts[r + i], (slot + 1) % ROWS
                        biases(
                            bias + 4 * slot * stride, distance_at - 4 * position[r + i],
                            entries_at + looked_up, time_at, min(limit[r + i], events),
                        )  # fmt: skip
                    bias_at[i] = bias + 4 * slot * stride
                for h in range(heads):
                    _scores(
                        q_at + 4 * (r * q_row + h * width), width, heads,
                        k_at + 4 * (first * q_row + h * width), keys + h * keys_size, stride,
                        scores, limit, r, rows, events, extent,
                    )  # fmt: skip
                    for i in range(rows):
                        row = scores + 4 * i * stride
                        weigh(row, bias_at[i], limit[r + i], extent, alpha, scale)
                    product(
                        scores, stride, 1,
                        v_at + 4 * (first * v_row + h * value_width), v_row,
                        out_at + 4 * (r * v_row + h * value_width), v_row,
                        rows, value_width, extent, 0,
                    )  # fmt: skip


@njit(cache=True, nogil=True)
def backward(
    part, parts, q, k, v, by_distance, nearest, by_time, row_ends, position, limit, event_ends,
    cuts, starts, entries, alpha, scale, scratch, grad_out, grad_q, grad_k, grad_v, grad_distance,
    grad_time,
):  # fmt: skip
    """grad_k, grad_v, grad_distance [parts, ..] and grad_time [parts, entries, 16] begin as 0."""
    heads, width, value_width = q.shape[1], q.shape[2], v.shape[2]
    q_row, v_row = heads * width, heads * value_width
    q_at, k_at, v_at, grad_at = address(q), address(k), address(v), address(grad_out)
    grad_q_at, grad_k_at, grad_v_at = address(grad_q), address(grad_k), address(grad_v)
    distance_at, entries_at = address(by_distance) + 4 * nearest, address(entries)
    time_at = address(by_time) if len(by_time) else np.int64(0)
    for p in range(part, len(cuts) - 1, parts):
        grad_distance_at = address(grad_distance[p]) + 4 * nearest
        grad_time_at = address(grad_time[p])
        for b in range(cuts[p], cuts[p + 1]):
            first, events = event_ends[b], event_ends[b + 1] - event_ends[b]
            start, end = row_ends[b], row_ends[b + 1]
            seen = _most_seen(limit, start, end, events)
            stride = _stride(seen)
            keys = address(scratch)
            keys_size, values_size = 4 * whole(width) * stride, 4 * whole(value_width) * stride
            values = keys + heads * keys_size
            block_size = 4 * BLOCK * stride
            weights = values + heads * values_size
            grads = weights + block_size
            totals = grads + block_size
            bias = totals + block_size
            for h in range(heads):
                key = k_at + 4 * (first * q_row + h * width)
                _transposed(key, q_row, seen, width, keys + h * keys_size, stride)
                value = v_at + 4 * (first * v_row + h * value_width)
                _transposed(value, v_row, seen, value_width, values + h * values_size, stride)
            for r0 in range(start, end, BLOCK):
                block = min(BLOCK, end - r0)
                for i in range(block):
                    biases(
                        bias + 4 * i * stride, distance_at - 4 * position[r0 + i],
                        entries_at + starts[r0 + i], time_at, min(limit[r0 + i], events),
                    )  # fmt: skip
                for h in range(heads):
                    extent = 0
                    for i in range(0, block, ROWS):
                        r, rows, tile = r0 + i, min(ROWS, block - i), 4 * i * stride
                        # At least as far as tiles before, as events read all rows behind theirs.
                        extent = max(extent, _most_seen(limit, r, r + rows, events))
                        _scores(
                            q_at + 4 * (r * q_row + h * width), width, heads,
                            k_at + 4 * (first * q_row + h * width), keys + h * keys_size, stride,
                            weights + tile, limit, r, rows, events, extent,
                        )  # fmt: skip
                        _scores(
                            grad_at + 4 * (r * v_row + h * value_width), value_width, heads,
                            v_at + 4 * (first * v_row + h * value_width), values + h * values_size,
                            stride, grads + tile, limit, r, rows, events, extent,
                        )  # fmt: skip
                        for i_row in range(i, i + rows):
                            row = 4 * i_row * stride
                            derive(
                                weights + row, grads + row, bias + row, totals + row, h,
                                limit[r0 + i_row], extent, alpha, scale,
                            )  # fmt: skip
                        product(
                            grads + tile, stride, 1,
                            k_at + 4 * (first * q_row + h * width), q_row,
                            grad_q_at + 4 * (r * q_row + h * width), q_row,
                            rows, width, extent, 0,
                        )  # fmt: skip
                    i, reach = 0, _most_seen(limit, r0, min(r0 + ROWS, end), events)
                    for j in range(0, extent, ROWS):
                        while reach <= j:  # skip tiles of rows that do not see event j
                            i += ROWS
                            reach = _most_seen(limit, r0 + i, min(r0 + i + ROWS, end), events)
                        r, rows, corner = r0 + i, min(ROWS, extent - j), 4 * (i * stride + j)
                        t = first + j
                        product(
                            grads + corner, 1, stride,
                            q_at + 4 * (r * q_row + h * width), q_row,
                            grad_k_at + 4 * (t * q_row + h * width), q_row,
                            rows, width, block - i, 1,
                        )  # fmt: skip
                        product(
                            weights + corner, 1, stride,
                            grad_at + 4 * (r * v_row + h * value_width), v_row,
                            grad_v_at + 4 * (t * v_row + h * value_width), v_row,
                            rows, value_width, block - i, 1,
                        )  # fmt: skip
                for i in range(block):
                    total, own = totals + 4 * i * stride, min(limit[r0 + i], events)
                    add_to_distances(grad_distance_at - 4 * position[r0 + i], total, own)
                    if time_at:
                        add_to_times(grad_time_at, entries_at + starts[r0 + i], total, own)
