"""The backward pass, deterministic by construction: no two programs add to the same place.

`backward_rows` goes over the keys of a tile of rows: gradients of queries, and the tile's share of
the bias tables, written to a place of its own and summed in a fixed order afterwards.
`backward_near` completes that share for tiles with many buckets, which lie near the diagonal.
`backward_keys` goes over the rows that see a tile of keys: gradients of keys and values. All of
them compute the logits again, so nothing of the size of rows x keys is ever stored.

Shapes: M rows and N keys of a tile, K and V columns of a head (padded), S buckets.
"""

import triton
import triton.language as tl

from kernels.attention.gpu.bias import (
    add_at,
    corners,
    entry,
    event_span,
    half_logits,
    move_far,
    move_far_at_once,
    move_old,
    move_old_at_once,
)
from kernels.attention.gpu.layout import BATCH, ends_of_limits, events_of_user, rows_of_tile
from kernels.attention.gpu.numbers import (
    ALL,
    BUCKETS,
    load_tile,
    narrowed,
    silu_and_slope_of_half,
    store_tile,
)


@triton.jit(do_not_specialize=BATCH)
def backward_rows(
    Q, K, V, GradOut, GradQ, Partial,
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
    MANY: tl.constexpr, WANT_Q: tl.constexpr, WANT_SUMS: tl.constexpr,
):  # fmt: skip
    """GradQ [R, HEADS, K_WIDTH], contiguous, and Partial [tiles, HEADS, 2, S]: the sums of the
    logits' gradients by bucket of distance and by bucket of time; as far as wanted."""
    tile, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    far_S = tl.zeros([BUCKETS], tl.float32)
    old_S = tl.zeros([BUCKETS], tl.float32)
    user = tl.load(Tiles + 2 * tile)
    if user < users:
        begin = tl.load(Tiles + 2 * tile + 1)
        end = tl.load(RowEnds + user + 1).to(tl.int32)
        (
            place_M, known_M, row_M, limit_M, position_M,
            position_low, position_high, ms_low, ms_high,
        ) = rows_of_tile(Order, Limit, Position, RowMs, begin, end, ROWS)  # fmt: skip
        lowest, highest = ends_of_limits(Limit, begin, end, ROWS)
        first, length = events_of_user(EventEnds, user)
        k_base = K + first * k_row + head * k_head
        v_base = V + first * v_row + head * v_head
        spans = EventSpans + 3 * tl.load(FirstSpan + user)
        q_MK = load_tile(Q + head * q_head, row_M, known_M, q_row, K_WIDTH, K_BLOCK, False, UPCAST)
        grad_out_MV = load_tile(
            GradOut + head * out_head, row_M, known_M, out_row, V_WIDTH, V_BLOCK, True, UPCAST
        )
        grad_MK = tl.zeros([ROWS, K_BLOCK], tl.float32)
        sums_M = tl.zeros([ROWS], tl.float32)
        key_ms_low, key_ms_high, ahead = event_span(spans, 0, SPAN, HAS_TIME)
        near, far, recent, old = corners(
            position_low, position_high, ms_low, ms_high, 0, KEYS, key_ms_low, key_ms_high
        )
        near_bias, recent_bias = entry(Distance, near, HAS_DISTANCE), entry(Time, recent, HAS_TIME)
        whole = lowest // KEYS * KEYS
        if whole > 0:
            for start in range(0, whole, KEYS):
                (
                    grad_MK, far_S, old_S, sums_M,
                    near, far, recent, old, ahead, near_bias, recent_bias,
                ) = _add_keys(
                    grad_MK, far_S, old_S, sums_M,
                    near, far, recent, old, ahead, near_bias, recent_bias,
                    q_MK, grad_out_MV, k_base, v_base, k_row, v_row, start, length, limit_M,
                    position_M, Reach + place_M, rows, Rank + first, spans,
                    Distance, ByDistance, Time, alpha,
                    position_low, position_high, ms_low, ms_high, K.dtype.element_ty,
                    K_WIDTH, V_WIDTH, K_BLOCK, V_BLOCK, KEYS, SPAN, HAS_DISTANCE, HAS_TIME,
                    PRECISION, FAST, UPCAST, False, MANY, WANT_Q, WANT_SUMS,
                )  # fmt: skip
        if highest > whole:
            for start in range(whole, highest, KEYS):
                (
                    grad_MK, far_S, old_S, sums_M,
                    near, far, recent, old, ahead, near_bias, recent_bias,
                ) = _add_keys(
                    grad_MK, far_S, old_S, sums_M,
                    near, far, recent, old, ahead, near_bias, recent_bias,
                    q_MK, grad_out_MV, k_base, v_base, k_row, v_row, start, length, limit_M,
                    position_M, Reach + place_M, rows, Rank + first, spans,
                    Distance, ByDistance, Time, alpha,
                    position_low, position_high, ms_low, ms_high, K.dtype.element_ty,
                    K_WIDTH, V_WIDTH, K_BLOCK, V_BLOCK, KEYS, SPAN, HAS_DISTANCE, HAS_TIME,
                    PRECISION, FAST, UPCAST, True, MANY, WANT_Q, WANT_SUMS,
                )  # fmt: skip
        total = tl.sum(sums_M, axis=0)
        far_S, old_S = add_at(far_S, near, total), add_at(old_S, recent, total)
        if WANT_Q:
            store_tile(
                GradQ + head * K_WIDTH, row_M, known_M, HEADS * K_WIDTH, grad_MK * scale,
                K_WIDTH, K_BLOCK,
            )  # fmt: skip
    if WANT_SUMS:
        partial = Partial + tl.program_id(0).to(tl.int64) * 2 * BUCKETS + tl.arange(0, BUCKETS)
        tl.store(partial, far_S)
        tl.store(partial + BUCKETS, old_S)


@triton.jit
def _add_keys(
    grad_MK, far_S, old_S, sums_M, near, far, recent, old, ahead, near_bias, recent_bias,
    q_MK, grad_out_MV, k_base, v_base, k_row: tl.constexpr, v_row: tl.constexpr, start, length,
    limit_M, position_M, Reach, reach_stride, Rank, spans, Distance, ByDistance, Time, alpha,
    position_low, position_high, ms_low, ms_high, TYPE: tl.constexpr,
    K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr, K_BLOCK: tl.constexpr, V_BLOCK: tl.constexpr,
    KEYS: tl.constexpr, SPAN: tl.constexpr, HAS_DISTANCE: tl.constexpr, HAS_TIME: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr, CHECKED: tl.constexpr,
    MANY: tl.constexpr, WANT_Q: tl.constexpr, WANT_SUMS: tl.constexpr,
):  # fmt: skip
    """One tile of keys, whose corners are known; CHECKED where some row does not see all of it.
    Returns the next tile's corners too, so that nothing waits for their loads."""
    next_low, next_high, next_ahead = event_span(spans, start + KEYS, SPAN, HAS_TIME)
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
    _, slope_MN = silu_and_slope_of_half(half_MN, FAST, UPCAST)
    grad_MN = slope_MN * tl.dot(grad_out_MV, tl.trans(v_NV), input_precision=PRECISION)
    if CHECKED:
        grad_MN = tl.where(key_N[None, :] < limit_M[:, None] - start, grad_MN, 0.0)
    if WANT_SUMS:
        sums_M += tl.sum(grad_MN, axis=1)
        if HAS_DISTANCE and (far > near) & (far - near < MANY):
            far_S = move_far(far_S, grad_MN, position_M - start, near, far)
        if HAS_TIME and (old > recent) & ((old - recent < MANY) | (ahead == ALL)):
            rank_N = tl.load(Rank + start + key_N, mask=known_N, other=0)
            old_S = move_old(old_S, grad_MN, Reach, reach_stride, rank_N, recent, old)
    if WANT_Q:
        grad_MN = narrowed(grad_MN, TYPE, UPCAST)
        grad_MK = tl.dot(grad_MN, k_NK, grad_MK, input_precision=PRECISION)
    next_near, far, next_recent, old = corners(
        position_low, position_high, ms_low, ms_high, start + KEYS, KEYS, next_low, next_high
    )
    if WANT_SUMS and (next_near != near) | (next_recent != recent):
        total = tl.sum(sums_M, axis=0)
        far_S, old_S = add_at(far_S, near, total), add_at(old_S, recent, total)
        sums_M = tl.zeros_like(sums_M)
    near_bias = entry(Distance, next_near, HAS_DISTANCE)
    recent_bias = entry(Time, next_recent, HAS_TIME)
    return (
        grad_MK, far_S, old_S, sums_M,
        next_near, far, next_recent, old, next_ahead, near_bias, recent_bias,
    )  # fmt: skip


@triton.jit(do_not_specialize=BATCH)
def backward_near(
    Q, K, V, GradOut, Partial,
    Order, Limit, Position, RowMs, RowEnds, Tiles,
    EventEnds, Rank, Reach, EventSpans, FirstSpan,
    Distance, ByDistance, Time,
    alpha, users, rows,
    q_row: tl.constexpr, q_head: tl.constexpr, k_row: tl.constexpr, k_head: tl.constexpr,
    v_row: tl.constexpr, v_head: tl.constexpr, out_row: tl.constexpr, out_head: tl.constexpr,
    HEADS: tl.constexpr, K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr,
    K_BLOCK: tl.constexpr, V_BLOCK: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    SPAN: tl.constexpr, HAS_DISTANCE: tl.constexpr, HAS_TIME: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr, MANY: tl.constexpr,
):  # fmt: skip
    """Partial [tiles, HEADS, 2, S]: what each bucket takes over from the one below it, by distance
    and by time, in the tiles whose corners are so many buckets apart that `backward_rows` counted
    all of their gradients in the lowest one."""
    tile, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    far_S = tl.zeros([BUCKETS], tl.float32)
    old_S = tl.zeros([BUCKETS], tl.float32)
    user = tl.load(Tiles + 2 * tile)
    if user < users:
        begin = tl.load(Tiles + 2 * tile + 1)
        end = tl.load(RowEnds + user + 1).to(tl.int32)
        (
            place_M, known_M, row_M, limit_M, position_M,
            position_low, position_high, ms_low, ms_high,
        ) = rows_of_tile(Order, Limit, Position, RowMs, begin, end, ROWS)  # fmt: skip
        _, highest = ends_of_limits(Limit, begin, end, ROWS)
        first, length = events_of_user(EventEnds, user)
        k_base = K + first * k_row + head * k_head
        v_base = V + first * v_row + head * v_head
        spans = EventSpans + 3 * tl.load(FirstSpan + user)
        q_MK = load_tile(Q + head * q_head, row_M, known_M, q_row, K_WIDTH, K_BLOCK, False, UPCAST)
        grad_out_MV = load_tile(
            GradOut + head * out_head, row_M, known_M, out_row, V_WIDTH, V_BLOCK, True, UPCAST
        )
        key_N = tl.arange(0, KEYS)
        for group in range(0, highest, BUCKETS * KEYS):
            start_S = group + KEYS * tl.arange(0, BUCKETS)
            start_S = tl.where(start_S < highest, start_S, 0)
            low_S, high_S, ahead_S = event_span(spans, start_S, SPAN, HAS_TIME)
            nearest_S, farthest_S, newest_S, oldest_S = corners(
                position_low, position_high, ms_low, ms_high, start_S, KEYS, low_S, high_S
            )
            many_S = tl.zeros([BUCKETS], tl.int1)
            if HAS_DISTANCE:
                many_S |= farthest_S - nearest_S >= MANY
            if HAS_TIME:
                many_S |= (oldest_S - newest_S >= MANY) & (ahead_S != ALL)
            many_S &= (start_S > 0) | (group + tl.arange(0, BUCKETS) == 0)
            next_S = tl.where(many_S, start_S, ALL)
            for _ in range(0, tl.sum(many_S.to(tl.int32))):
                start = tl.min(next_S)
                next_S = tl.where(next_S == start, ALL, next_S)
                low, high, ahead = event_span(spans, start, SPAN, HAS_TIME)
                near, far, recent, old = corners(
                    position_low, position_high, ms_low, ms_high, start, KEYS, low, high
                )
                known_N = key_N < length - start
                from_here = start.to(tl.int64)
                k_NK = load_tile(
                    k_base + from_here * k_row, key_N, known_N, k_row, K_WIDTH, K_BLOCK, True,
                    UPCAST,
                )  # fmt: skip
                v_NV = load_tile(
                    v_base + from_here * v_row, key_N, known_N, v_row, V_WIDTH, V_BLOCK, True,
                    UPCAST,
                )  # fmt: skip
                dots_MN = tl.dot(q_MK, tl.trans(k_NK), input_precision=PRECISION)
                half_MN = half_logits(
                    dots_MN, alpha, Distance, ByDistance, Time, position_M[:, None], start,
                    key_N[None, :], (Reach + place_M)[:, None], rows,
                    (Rank + first + start + key_N)[None, :], known_N[None, :],
                    near, far, recent, old, entry(Distance, near, HAS_DISTANCE),
                    entry(Time, recent, HAS_TIME), HAS_DISTANCE, HAS_TIME,
                )  # fmt: skip
                _, slope_MN = silu_and_slope_of_half(half_MN, FAST, UPCAST)
                grad_MN = slope_MN * tl.dot(grad_out_MV, tl.trans(v_NV), input_precision=PRECISION)
                grad_MN = tl.where(key_N[None, :] < limit_M[:, None] - start, grad_MN, 0.0)
                along_MN = tl.cumsum(grad_MN, axis=1)
                if HAS_DISTANCE and far - near >= MANY:
                    far_S = move_far_at_once(far_S, along_MN, position_M - start, near)
                if HAS_TIME and (old - recent >= MANY) & (ahead != ALL):
                    old_S = move_old_at_once(
                        old_S, along_MN, Reach + place_M, rows, start + ahead, recent
                    )
    partial = Partial + tl.program_id(0).to(tl.int64) * 2 * BUCKETS + tl.arange(0, BUCKETS)
    tl.store(partial, far_S)
    tl.store(partial + BUCKETS, old_S)


@triton.jit(do_not_specialize=BATCH)
def backward_keys(
    Q, K, V, GradOut, GradK, GradV,
    Order, Limit, Position, RowEnds, Tiles, RowSpans, FirstRowSpan,
    EventEnds, EventMs, Rank, Reach,
    Distance, ByDistance, Time,
    alpha, k_scale, v_scale, users, rows,
    q_row: tl.constexpr, q_head: tl.constexpr, k_row: tl.constexpr, k_head: tl.constexpr,
    v_row: tl.constexpr, v_head: tl.constexpr, out_row: tl.constexpr, out_head: tl.constexpr,
    HEADS: tl.constexpr, K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr,
    K_BLOCK: tl.constexpr, V_BLOCK: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    SPAN: tl.constexpr, HAS_DISTANCE: tl.constexpr, HAS_TIME: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr,
    WANT_K: tl.constexpr, WANT_V: tl.constexpr,
):  # fmt: skip
    """GradK and GradV [T, HEADS, width], contiguous, of one tile of keys, as far as wanted."""
    tile, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    user = tl.load(Tiles + 4 * tile)
    if user == users:
        return
    key_start = tl.load(Tiles + 4 * tile + 1)
    row_begin = tl.load(RowEnds + user).to(tl.int32)
    row_end = tl.load(RowEnds + user + 1).to(tl.int32)
    first, length = events_of_user(EventEnds, user)
    key_N = tl.arange(0, KEYS)
    known_N = key_N < length - key_start
    first += key_start
    k_NK = load_tile(
        K + first * k_row + head * k_head, key_N, known_N, k_row, K_WIDTH, K_BLOCK, True, UPCAST
    )
    v_NV = load_tile(
        V + first * v_row + head * v_head, key_N, known_N, v_row, V_WIDTH, V_BLOCK, True, UPCAST
    )
    ms_N = tl.load(EventMs + first + tl.minimum(key_N, length - key_start - 1))
    ms_low, ms_high = tl.min(ms_N), tl.max(ms_N)
    spans = RowSpans + 4 * tl.load(FirstRowSpan + user)
    grad_NK = tl.zeros([KEYS, K_BLOCK], tl.float32)
    grad_NV = tl.zeros([KEYS, V_BLOCK], tl.float32)
    seen_from = row_begin + (tl.load(Tiles + 4 * tile + 2) - row_begin) // ROWS * ROWS
    whole_from = row_begin + tl.cdiv(tl.load(Tiles + 4 * tile + 3) - row_begin, ROWS) * ROWS
    whole_from = tl.minimum(whole_from, row_end)
    if whole_from > seen_from:
        for start in range(seen_from, whole_from, ROWS):
            grad_NK, grad_NV = _add_rows(
                grad_NK, grad_NV, k_NK, v_NV, Q + head * q_head, GradOut + head * out_head,
                q_row, out_row, start, row_begin, row_end, key_start, known_N, Order, Limit,
                Position, Reach, rows, Rank + first + key_N, spans, ms_low, ms_high,
                Distance, ByDistance, Time, alpha, K.dtype.element_ty,
                K_WIDTH, V_WIDTH, K_BLOCK, V_BLOCK, ROWS, KEYS, SPAN, HAS_DISTANCE, HAS_TIME,
                PRECISION, FAST, UPCAST, True, WANT_K, WANT_V,
            )  # fmt: skip
    if row_end > whole_from:
        for start in range(whole_from, row_end, ROWS):
            grad_NK, grad_NV = _add_rows(
                grad_NK, grad_NV, k_NK, v_NV, Q + head * q_head, GradOut + head * out_head,
                q_row, out_row, start, row_begin, row_end, key_start, known_N, Order, Limit,
                Position, Reach, rows, Rank + first + key_N, spans, ms_low, ms_high,
                Distance, ByDistance, Time, alpha, K.dtype.element_ty,
                K_WIDTH, V_WIDTH, K_BLOCK, V_BLOCK, ROWS, KEYS, SPAN, HAS_DISTANCE, HAS_TIME,
                PRECISION, FAST, UPCAST, False, WANT_K, WANT_V,
            )  # fmt: skip
    key_N = first + key_N
    if WANT_K:
        store_tile(
            GradK + head * K_WIDTH, key_N, known_N, HEADS * K_WIDTH, grad_NK * k_scale,
            K_WIDTH, K_BLOCK,
        )  # fmt: skip
    if WANT_V:
        store_tile(
            GradV + head * V_WIDTH, key_N, known_N, HEADS * V_WIDTH, grad_NV * v_scale,
            V_WIDTH, V_BLOCK,
        )  # fmt: skip


@triton.jit
def _add_rows(
    grad_NK, grad_NV, k_NK, v_NV, Q, GradOut, q_row: tl.constexpr, out_row: tl.constexpr, start,
    row_begin, row_end,
    key_start, known_N, Order, Limit, Position, Reach, reach_stride, Rank, spans, ms_low, ms_high,
    Distance, ByDistance, Time, alpha, TYPE: tl.constexpr,
    K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr, K_BLOCK: tl.constexpr, V_BLOCK: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, SPAN: tl.constexpr,
    HAS_DISTANCE: tl.constexpr, HAS_TIME: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr, CHECKED: tl.constexpr,
    WANT_K: tl.constexpr, WANT_V: tl.constexpr,
):  # fmt: skip
    """One tile of rows, logits turned [N, M]; CHECKED where some row does not see all keys."""
    place_M = start + tl.arange(0, ROWS)
    known_M = place_M < row_end
    place_M = tl.minimum(place_M, row_end - 1)
    row_M = tl.load(Order + place_M).to(tl.int64)
    q_MK = load_tile(Q, row_M, known_M, q_row, K_WIDTH, K_BLOCK, False, UPCAST)
    grad_out_MV = load_tile(GradOut, row_M, known_M, out_row, V_WIDTH, V_BLOCK, True, UPCAST)
    dots_NM = tl.dot(k_NK, tl.trans(q_MK), input_precision=PRECISION)
    span = spans + 4 * ((start - row_begin) // SPAN)
    near, far, recent, old = corners(
        tl.load(span).to(tl.int32), tl.load(span + 1).to(tl.int32), tl.load(span + 2),
        tl.load(span + 3), key_start, KEYS, ms_low, ms_high,
    )  # fmt: skip
    key_N = tl.arange(0, KEYS)
    half_NM = half_logits(
        dots_NM, alpha, Distance, ByDistance, Time, (Position + place_M)[None, :], key_start,
        key_N[:, None], (Reach + place_M)[None, :], reach_stride, Rank[:, None], known_N[:, None],
        near, far, recent, old, entry(Distance, near, HAS_DISTANCE), entry(Time, recent, HAS_TIME),
        HAS_DISTANCE, HAS_TIME,
    )  # fmt: skip
    weights_NM, slope_NM = silu_and_slope_of_half(half_NM, FAST, UPCAST)
    if CHECKED:
        seen_NM = key_N[:, None] < (tl.load(Limit + place_M) - key_start)[None, :]
        weights_NM = tl.where(seen_NM, weights_NM, 0.0)
        slope_NM = tl.where(seen_NM, slope_NM, 0.0)
    if WANT_V:
        weights_NM = narrowed(weights_NM, TYPE, UPCAST)
        grad_NV = tl.dot(weights_NM, grad_out_MV, grad_NV, input_precision=PRECISION)
    if WANT_K:
        grad_NM = slope_NM * tl.dot(v_NV, tl.trans(grad_out_MV), input_precision=PRECISION)
        grad_NM = narrowed(grad_NM, TYPE, UPCAST)
        grad_NK = tl.dot(grad_NM, q_MK, grad_NK, input_precision=PRECISION)
    return grad_NK, grad_NV
