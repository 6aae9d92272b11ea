"""Arithmetic that every kernel shares: SiLU, buckets, loads of tiles, matrix products.

Shapes: M rows of a tile, N keys of a tile, W columns of a head padded to a power of two.
"""

import triton
import triton.language as tl

BUCKETS = tl.constexpr(64)
"""Entries of either bias table."""
ALL = tl.constexpr(1 << 30)
"""A reach that no place of an event exceeds."""


@triton.jit
def _tanh(x, UPCAST: tl.constexpr):
    """One instruction of the special function unit, relative error 2^-11: less than what rounding
    a weight to bfloat16 costs. The interpreter has no such instruction."""
    if UPCAST:
        tanh = 2.0 * tl.sigmoid(2.0 * x) - 1.0
    else:
        tanh = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return tanh


@triton.jit
def silu_of_half(h, FAST: tl.constexpr, UPCAST: tl.constexpr):
    """SiLU(2h) = h + h tanh(h)."""
    if FAST:
        silu = h * _tanh(h, UPCAST) + h
    else:
        silu = 2.0 * h * tl.sigmoid(2.0 * h)
    return silu


@triton.jit
def silu_and_slope_of_half(h, FAST: tl.constexpr, UPCAST: tl.constexpr):
    """SiLU(x) and its derivative at x = 2h."""
    if FAST:
        tanh = _tanh(h, UPCAST)
        silu = h * tanh + h
        slope = (0.5 + 0.5 * tanh) * (1.0 + (h - h * tanh))
    else:
        gate = tl.sigmoid(2.0 * h)
        silu = 2.0 * h * gate
        slope = gate * (1.0 + 2.0 * h * (1.0 - gate))
    return silu, slope


@triton.jit
def distance_bucket(distance):
    """`buckets.distance_bucket` of int32; negative distances count as 0."""
    distance = tl.maximum(distance, 0)
    bits = distance.to(tl.float32).to(tl.int32, bitcast=True)
    return tl.where(distance < 32, distance, tl.minimum(32 + (bits >> 21) - (132 << 2), 63))


@triton.jit
def distance_edge(bucket):
    """The smallest distance in a bucket, the inverse of `distance_bucket`."""
    octave = (bucket - 32) >> 2
    coarse = (4 + (bucket & 3)) << (tl.maximum(octave, 0) + 3)
    return tl.where(bucket < 32, bucket, coarse)


@triton.jit
def time_bucket(gap_ms):
    """`buckets.time_bucket` of int64."""
    seconds_plus_one = (tl.maximum(gap_ms, 0) + 1000).to(tl.float32) * 0.001
    bits = seconds_plus_one.to(tl.int32, bitcast=True)
    return tl.minimum((bits >> 22) - (127 << 1), 63)


@triton.jit
def load_tile(
    base, place_M, known_M, stride: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, CHECKED: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """[M, BLOCK]: rows `place` of a matrix, 0 beyond WIDTH columns and, if CHECKED, where a row is
    not known. UPCAST: as float32."""
    column_W = tl.arange(0, BLOCK)
    cells_MW = base + place_M[:, None] * stride + column_W[None, :]
    if CHECKED:
        tile_MW = tl.load(cells_MW, mask=known_M[:, None] & (column_W < WIDTH)[None, :], other=0.0)
    elif WIDTH < BLOCK:
        tile_MW = tl.load(cells_MW, mask=(column_W < WIDTH)[None, :], other=0.0)
    else:
        tile_MW = tl.load(cells_MW)
    if UPCAST:
        tile_MW = tile_MW.to(tl.float32)
    return tile_MW


@triton.jit
def store_tile(base, place_M, known_M, stride, tile_MW, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """What `load_tile` reads, written."""
    column_W = tl.arange(0, BLOCK)
    cells_MW = base + place_M[:, None] * stride + column_W[None, :]
    mask_MW = known_M[:, None] & (column_W < WIDTH)[None, :]
    tl.store(cells_MW, tile_MW.to(base.dtype.element_ty), mask=mask_MW)


@triton.jit
def narrowed(x, TYPE: tl.constexpr, UPCAST: tl.constexpr):
    """x rounded to the inputs' type, the form in which it enters a matrix product."""
    x = x.to(TYPE)
    if UPCAST:
        x = x.to(tl.float32)
    return x
