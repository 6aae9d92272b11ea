"""How a tile of pairs reads its bias, and how the bias tables get their gradient.

Both tables are read the same way. Number a user's events by *place*: by position for distances,
by order of time for gaps. Bucket numbers only grow with distance and with the gap, so a row meets
every bucket in one run of places, and one number says where it ends: an event is in bucket b or a
higher one exactly if its place is below the row's `reach` of b. For distances the reach is
`position + 1 - edge(b)`; for gaps it comes from a table made once for each batch (`plan.py`).

The corners of a tile tell its lowest and its highest bucket. If they are the same, which is so for
most tiles far from the diagonal, the bias is one number. If not, every edge between two buckets
costs one comparison and one selection for each pair. Near the diagonal there are many edges: there
distances read a table by distance, and gradients have a kernel of their own, which sums them along
rows once and reads the sums off at each row's reach of every bucket (`backward_near`). Every pair
gets the very entry of the table whatever the tile, so a result does not depend on who shares the
batch.

The tables hold half of every bias: the kernels work with half logits (`numbers.silu_of_half`).

Shapes: M rows, N keys of a tile; tiles are [M, N] or [N, M], vectors carry the missing axis.
"""

import triton
import triton.language as tl

from kernels.attention.gpu.numbers import BUCKETS, distance_bucket, distance_edge, time_bucket

BY_DISTANCE = tl.constexpr(8192)
"""Distances that the table by distance covers; farther ones share the last bucket."""
MANY_TO_READ = tl.constexpr(4)
"""Edges from which the table by distance is read: 250 instructions for each thread's 32 pairs,
where an edge takes 88."""
CHUNK = tl.constexpr(16)
"""Buckets that `backward_near` reads off at a time, so that registers suffice."""


@triton.jit
def event_span(spans, start, SPAN: tl.constexpr, HAS_TIME: tl.constexpr):
    """Lowest and highest time around a tile of keys, and how far their order of time runs ahead of
    their position, `numbers.ALL` if that differs between them."""
    if HAS_TIME:
        span = spans + 3 * (start // SPAN)
        low, high, ahead = tl.load(span), tl.load(span + 1), tl.load(span + 2).to(tl.int32)
    else:
        low, high, ahead = tl.full((), 0, tl.int64), tl.full((), 0, tl.int64), 0
    return low, high, ahead


@triton.jit
def corners(
    position_low, position_high, ms_low, ms_high, start, KEYS: tl.constexpr, key_ms_low, key_ms_high
):
    """The lowest and the highest bucket that any pair of a tile can have, by distance and by gap,
    from the ends of its rows' and of its keys' positions and times."""
    near = distance_bucket(position_low - start - (KEYS - 1))
    far = distance_bucket(position_high - start)
    recent = time_bucket(ms_low - key_ms_high)
    old = time_bucket(ms_high - key_ms_low)
    return near, far, recent, old


@triton.jit
def entry(Bias, bucket, HAS: tl.constexpr):
    """One entry of a table, 0 where there is no such table."""
    if HAS:
        bias = tl.load(Bias + bucket)
    else:
        bias = 0.0
    return bias


@triton.jit
def half_logits(
    dots, alpha, Distance, ByDistance, Time, Position, start, key, Reach, reach_stride, Rank, known,
    near, far, recent, old, near_bias, recent_bias,
    HAS_DISTANCE: tl.constexpr, HAS_TIME: tl.constexpr,
):  # fmt: skip
    """`alpha * dots` plus the bias of every pair.

    `Position`, positions or pointers to them as registers allow, and the pointers `Reach`, to the
    reach of bucket 0, carry the rows' axis; `key`, counted from the first one's position `start`,
    the pointers `Rank` and `known` the keys'. `near_bias` and `recent_bias` are the entries of the
    lowest buckets.
    """
    half = dots * alpha  # triton 3.6 cannot compile a product's first use inside a branch
    if HAS_DISTANCE and HAS_TIME:
        if (near == far) & (recent == old):
            half = half + near_bias + recent_bias
        else:
            half += _by_distance(
                half, Distance, ByDistance, Position, start, key, near, far, near_bias
            )
            half += _by_time(half, Time, Reach, reach_stride, Rank, known, recent, old, recent_bias)
    elif HAS_DISTANCE:
        if near == far:
            half += near_bias
        else:
            half += _by_distance(
                half, Distance, ByDistance, Position, start, key, near, far, near_bias
            )
    elif HAS_TIME:
        if recent == old:
            half += recent_bias
        else:
            half += _by_time(half, Time, Reach, reach_stride, Rank, known, recent, old, recent_bias)
    return half


@triton.jit
def _by_distance(like, Bias, ByDistance, Position, start, key, low, high, lowest):
    """The bias by distance, a tile laid out `like` another."""
    if Position.dtype.is_ptr():
        position = tl.load(Position) - start
    else:
        position = Position - start
    if high - low < MANY_TO_READ:
        bias = like * 0.0 + lowest
        for bucket in range(low + 1, high + 1):
            reach = position + 1 - distance_edge(bucket)
            bias = tl.where(key < reach, tl.load(Bias + bucket), bias)
    else:
        distance = tl.minimum(tl.maximum(position - key, 0), BY_DISTANCE - 1)
        bias = like * 0.0 + tl.load(ByDistance + distance)
    return bias


@triton.jit
def _by_time(like, Bias, Reach, reach_stride, Rank, known, low, high, lowest):
    """The bias by gap, a tile laid out `like` another."""
    bias = like * 0.0 + lowest
    rank = tl.load(Rank, mask=known, other=0)
    for bucket in range(low + 1, high + 1):
        reach = tl.load(Reach + bucket * reach_stride)
        bias = tl.where(rank < reach, tl.load(Bias + bucket), bias)
    return bias


@triton.jit
def move_far(sums_S, grad_MN, position_M, low, high):
    """Gradients of a tile by distance, all of them counted in the lowest bucket: move on, edge by
    edge, what belongs into higher ones. Position is relative to the tile's first key."""
    key_N = tl.arange(0, grad_MN.shape[1])
    for bucket in range(low + 1, high + 1):
        reach_M = position_M + 1 - distance_edge(bucket)
        sums_S = _move_on(sums_S, bucket, _sum_below(grad_MN, key_N, reach_M))
    return sums_S


@triton.jit
def move_old(sums_S, grad_MN, Reach_M, reach_stride, rank_N, low, high):
    """The same by gap."""
    for bucket in range(low + 1, high + 1):
        reach_M = tl.load(Reach_M + bucket * reach_stride)
        sums_S = _move_on(sums_S, bucket, _sum_below(grad_MN, rank_N, reach_M))
    return sums_S


@triton.jit
def move_far_at_once(sums_S, along_MN, position_M, low):
    """`move_far` for many edges, from the gradients' sums along the rows. Leaves in `sums_S` what
    each bucket above the lowest takes from the one below it."""
    for chunk in range(0, BUCKETS, CHUNK):
        bucket_C = chunk + tl.arange(0, CHUNK)
        reach_MC = position_M[:, None] + 1 - distance_edge(bucket_C)[None, :]
        sums_S = _add_sums_below(sums_S, along_MN, reach_MC, bucket_C, low)
    return sums_S


@triton.jit
def move_old_at_once(sums_S, along_MN, Reach_M, reach_stride, first_rank, low):
    """The same by gap, for keys that follow each other in time."""
    for chunk in range(0, BUCKETS, CHUNK):
        bucket_C = chunk + tl.arange(0, CHUNK)
        reach_MC = tl.load(Reach_M[:, None] + bucket_C[None, :] * reach_stride) - first_rank
        sums_S = _add_sums_below(sums_S, along_MN, reach_MC, bucket_C, low)
    return sums_S


@triton.jit
def add_at(sums_S, bucket, value):
    """`sums_S` with the value added to one bucket."""
    return sums_S + tl.where(tl.arange(0, BUCKETS) == bucket, value, 0.0)


@triton.jit
def _move_on(sums_S, bucket, value):
    return add_at(add_at(sums_S, bucket - 1, -value), bucket, value)


@triton.jit
def _sum_below(grad_MN, place_N, reach_M):
    """The sum of the gradients whose keys lie below their row's reach."""
    below_MN = tl.where(place_N[None, :] < reach_M[:, None], grad_MN, 0.0)
    return tl.sum(tl.sum(below_MN, axis=1), axis=0)


@triton.jit
def _add_sums_below(sums_S, along_MN, reach_MC, bucket_C, low):
    """The same for some buckets at once, keys numbered from 0, where they are above the lowest."""
    count_MC = tl.minimum(tl.maximum(reach_MC, 0), along_MN.shape[1])
    sums_MC = tl.gather(along_MN, tl.maximum(count_MC - 1, 0), axis=1)
    sums_C = tl.sum(tl.where(count_MC > 0, sums_MC, 0.0), axis=0)
    here_CS = (bucket_C[:, None] == tl.arange(0, BUCKETS)[None, :]) & (bucket_C > low)[:, None]
    return sums_S + tl.sum(tl.where(here_CS, sums_C[:, None], 0.0), axis=0)
