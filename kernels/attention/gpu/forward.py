"""The forward pass: one program for each tile of rows and head, over the keys that it sees.

Shapes: M rows and N keys of a tile, K and V columns of a head (padded), S buckets.
"""

import triton
import triton.language as tl

from kernels.attention.gpu.bias import corners, entry, event_span, half_logits
from kernels.attention.gpu.layout import BATCH, ends_of_limits, events_of_user, rows_of_tile
from kernels.attention.gpu.numbers import load_tile, narrowed, silu_of_half, store_tile


@triton.jit(do_not_specialize=BATCH)
def forward(
    Q, K, V, Out,
    Order, Limit, Position, RowMs, RowEnds, Tiles,
    EventEnds, Rank, Reach, EventSpans, FirstSpan,
    Distance, ByDistance, Time,
    alpha, scale, users, rows,
    q_row: tl.constexpr, q_head: tl.constexpr, k_row: tl.constexpr, k_head: tl.constexpr,
    v_row: tl.constexpr, v_head: tl.constexpr, out_row: tl.constexpr, out_head: tl.constexpr,
    HEADS: tl.constexpr, K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr,
    K_BLOCK: tl.constexpr, V_BLOCK: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    SPAN: tl.constexpr, HAS_DISTANCE: tl.constexpr, HAS_TIME: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Out = SiLU(alpha Q K^T + bias) V * scale, for rows in the plan's order."""
    tile, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    user = tl.load(Tiles + 2 * tile)
    if user == users:
        return
    begin = tl.load(Tiles + 2 * tile + 1)
    end = tl.load(RowEnds + user + 1).to(tl.int32)
    (
        place_M, known_M, row_M, limit_M, position_M, position_low, position_high, ms_low, ms_high
    ) = rows_of_tile(Order, Limit, Position, RowMs, begin, end, ROWS)  # fmt: skip
    lowest, highest = ends_of_limits(Limit, begin, end, ROWS)
    first, length = events_of_user(EventEnds, user)
    k_base = K + first * k_row + head * k_head
    v_base = V + first * v_row + head * v_head
    spans = EventSpans + 3 * tl.load(FirstSpan + user)
    q_MK = load_tile(Q + head * q_head, row_M, known_M, q_row, K_WIDTH, K_BLOCK, False, UPCAST)
    out_MV = tl.zeros([ROWS, V_BLOCK], tl.float32)
    key_ms_low, key_ms_high, _ = event_span(spans, 0, SPAN, HAS_TIME)
    near, far, recent, old = corners(
        position_low, position_high, ms_low, ms_high, 0, KEYS, key_ms_low, key_ms_high
    )
    near_bias, recent_bias = entry(Distance, near, HAS_DISTANCE), entry(Time, recent, HAS_TIME)
    whole = lowest // KEYS * KEYS
    if whole > 0:
        for start in range(0, whole, KEYS):
            out_MV, near, far, recent, old, near_bias, recent_bias = _add_keys(
                out_MV, q_MK, k_base, v_base, k_row, v_row, start, length, limit_M,
                position_M, Reach + place_M, rows, Rank + first, spans, Distance, ByDistance,
                Time, alpha, position_low, position_high, ms_low, ms_high, near, far, recent,
                old, near_bias, recent_bias, V.dtype.element_ty, K_WIDTH, V_WIDTH, K_BLOCK, V_BLOCK,
                KEYS, SPAN, HAS_DISTANCE, HAS_TIME, PRECISION, FAST, UPCAST, False,
            )  # fmt: skip
    if highest > whole:
        for start in range(whole, highest, KEYS):
            out_MV, near, far, recent, old, near_bias, recent_bias = _add_keys(
                out_MV, q_MK, k_base, v_base, k_row, v_row, start, length, limit_M,
                position_M, Reach + place_M, rows, Rank + first, spans, Distance, ByDistance,
                Time, alpha, position_low, position_high, ms_low, ms_high, near, far, recent,
                old, near_bias, recent_bias, V.dtype.element_ty, K_WIDTH, V_WIDTH, K_BLOCK, V_BLOCK,
                KEYS, SPAN, HAS_DISTANCE, HAS_TIME, PRECISION, FAST, UPCAST, True,
            )  # fmt: skip
    store_tile(Out + head * out_head, row_M, known_M, out_row, out_MV * scale, V_WIDTH, V_BLOCK)


@triton.jit
def _add_keys(
    out_MV, q_MK, k_base, v_base, k_row: tl.constexpr, v_row: tl.constexpr, start, length,
    limit_M, position_M, Reach, reach_stride, Rank, spans, Distance, ByDistance, Time, alpha,
    position_low, position_high, ms_low, ms_high, near, far, recent, old, near_bias, recent_bias,
    TYPE: tl.constexpr,
    K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr, K_BLOCK: tl.constexpr, V_BLOCK: tl.constexpr,
    KEYS: tl.constexpr, SPAN: tl.constexpr, HAS_DISTANCE: tl.constexpr, HAS_TIME: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr, CHECKED: tl.constexpr,
):  # fmt: skip
    """One tile of keys, whose corners are known; CHECKED where some row does not see all of it.
    Returns the next tile's corners too, so that nothing waits for their loads."""
    next_low, next_high, _ = event_span(spans, start + KEYS, SPAN, HAS_TIME)
    key_N = tl.arange(0, KEYS)
    known_N = key_N < length - start
    from_here = tl.cast(start, tl.int64)
    k_NK = load_tile(
        k_base + from_here * k_row, key_N, known_N, k_row, K_WIDTH, K_BLOCK, CHECKED, UPCAST
    )
    v_NV = load_tile(
        v_base + from_here * v_row, key_N, known_N, v_row, V_WIDTH, V_BLOCK, CHECKED, UPCAST
    )
    dots_MN = tl.dot(q_MK, tl.trans(k_NK), input_precision=PRECISION)
    half_MN = half_logits(
        dots_MN, alpha, Distance, ByDistance, Time, position_M[:, None], start, key_N[None, :],
        Reach[:, None], reach_stride, (Rank + start + key_N)[None, :], known_N[None, :],
        near, far, recent, old, near_bias, recent_bias, HAS_DISTANCE, HAS_TIME,
    )  # fmt: skip
    weights_MN = silu_of_half(half_MN, FAST, UPCAST)
    if CHECKED:
        weights_MN = tl.where(key_N[None, :] < limit_M[:, None] - start, weights_MN, 0.0)
    out_MV = tl.dot(narrowed(weights_MN, TYPE, UPCAST), v_NV, out_MV, input_precision=PRECISION)
    near, far, recent, old = corners(
        position_low, position_high, ms_low, ms_high, start + KEYS, KEYS, next_low, next_high
    )
    near_bias, recent_bias = entry(Distance, near, HAS_DISTANCE), entry(Time, recent, HAS_TIME)
    return out_MV, near, far, recent, old, near_bias, recent_bias
