"""Products of coded rows with a vector, in 16 lanes: what numba cannot say (see kernels/lanes.py).

`dot_...` decode as they go and sum in float32, in an order that depends on the width alone: a row
gives the same bits in every precision that decodes to the same numbers. Addresses need not be
aligned.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from kernels.lanes import FUSED, LANES, intrinsic, spread

_FLOAT = ir.FloatType()
_BYTE, _SHORT, _INT32, _INT64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_HALF_TO_FLOAT = 2.0**112
"""Rebases the exponent of a float16 whose bits were moved to where a float32 has them."""

Load = Callable[[Any, Any, Any, int, list[Any]], Any]
"""Builder, address, number of the part, numbers in a part (16 or 1) and scalars to a part of a
row in float32."""


@intrinsic
def dot_floats(typing_context: Any, row: Any, vector: Any, width: Any) -> Any:
    """The product of a float32 row and a float32 vector."""
    return _dot(0, lambda builder, row, index, count, _: _part(builder, row, index, _FLOAT, count))


@intrinsic
def dot_halves(typing_context: Any, row: Any, vector: Any, width: Any) -> Any:
    """The product of a float16 row and a float32 vector."""

    def load(builder: Any, row: Any, index: Any, count: int, scalars: list[Any]) -> Any:
        bits = builder.zext(_part(builder, row, index, _SHORT, count), _kind(_INT32, count))
        size = builder.shl(builder.and_(bits, _all(_INT32, count, 0x7FFF)), _all(_INT32, count, 13))
        sign = builder.shl(builder.and_(bits, _all(_INT32, count, 0x8000)), _all(_INT32, count, 16))
        kind = _kind(_FLOAT, count)
        value = builder.fmul(builder.bitcast(size, kind), _all(_FLOAT, count, _HALF_TO_FLOAT))
        value = builder.or_(builder.bitcast(value, _kind(_INT32, count)), sign)
        return builder.bitcast(value, kind)

    return _dot(0, load)


@intrinsic
def dot_codes(
    typing_context: Any, row: Any, vector: Any, width: Any, scale: Any, bias: Any
) -> Any:  # fmt: skip
    """The product of a row of 8-bit codes (bias + code * scale) and a float32 vector."""

    def load(builder: Any, row: Any, index: Any, count: int, scalars: list[Any]) -> Any:
        return _decoded(builder, _part(builder, row, index, _BYTE, count), count, scalars)

    return _dot(2, load)


@intrinsic
def dot_codes4(
    typing_context: Any, row: Any, vector: Any, width: Any, scale: Any, bias: Any
) -> Any:  # fmt: skip
    """The product of a row of 4-bit codes, the low half of a byte first, and a float32 vector."""

    def load(builder: Any, row: Any, index: Any, count: int, scalars: list[Any]) -> Any:
        return _decoded(builder, _nibbles(builder, row, index, count), count, scalars)

    return _dot(2, load)


@intrinsic
def sums_of_codes(
    typing_context: Any, rows: Any, row_bytes: Any, weights: Any, parts: Any, sums: Any
) -> Any:  # fmt: skip
    """int32 sums of 8-bit codes times int16 weights, of 16 rows that stand one after another.

    Weights are `parts` times 32; what of them is beyond a row must be 0, and the bytes there
    readable, also behind the 16th row. Sums must stay below 2^31.
    """
    return _sums(lambda builder, row, index: _part(builder, row, index, _BYTE, 2 * LANES))


@intrinsic
def sums_of_codes4(
    typing_context: Any, rows: Any, row_bytes: Any, weights: Any, parts: Any, sums: Any
) -> Any:  # fmt: skip
    """The same of 4-bit codes."""
    return _sums(lambda builder, row, index: _nibbles(builder, row, index, 2 * LANES))


@intrinsic
def lanes_above(typing_context: Any, numbers: Any, threshold: Any) -> Any:
    """Which of 16 float32 numbers are greater, as bits, the first one lowest; NaN never is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, threshold = arguments
        numbers = _part(builder, address, ir.Constant(_INT64, 0), _FLOAT, LANES)
        above = builder.fcmp_ordered(">", numbers, spread(builder, threshold, numbers.type))
        return builder.bitcast(above, _SHORT)

    return types.uint16(types.uint64, types.float32), generate


def _dot(scalars: int, load: Load) -> tuple[Any, Any]:
    """Signature and code of a product of a row, loaded so, and a float32 vector."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row, vector, width, *more = arguments
        total = _summed(builder, row, vector, (width, LANES), more, load)
        return builder.fadd(total, _summed(builder, row, vector, (width, 1), more, load))

    kinds = [types.uint64] * 3 + [types.float32] * scalars
    return types.float32(*kinds), generate


def _summed(
    builder: Any, row: Any, vector: Any, parts: tuple[Any, int], scalars: list[Any], load: Load
) -> Any:
    """The sum over whole parts of 16 numbers, or over each that is left behind them."""
    width, count = parts
    whole = builder.udiv(width, ir.Constant(_INT64, LANES))
    done = builder.mul(whole, ir.Constant(_INT64, LANES))
    first, end = (ir.Constant(_INT64, 0), whole) if count > 1 else (done, width)
    total = cgutils.alloca_once_value(builder, _all(_FLOAT, count, 0.0))
    with cgutils.for_range_slice(builder, first, end, ir.Constant(_INT64, 1)) as (index, _):
        numbers = load(builder, row, index, count, scalars)
        product = builder.fmul(numbers, _part(builder, vector, index, _FLOAT, count), flags=FUSED)
        builder.store(builder.fadd(builder.load(total), product, flags=FUSED), total)
    return _folded(builder, builder.load(total))


def _folded(builder: Any, numbers: Any) -> Any:
    """The sum of all lanes: halves are added until one is left."""
    if not isinstance(numbers.type, ir.VectorType):
        return numbers
    while (count := numbers.type.count) > 1:
        half = count // 2
        low = _shuffled(builder, numbers, numbers, range(half))
        numbers = builder.fadd(low, _shuffled(builder, numbers, numbers, range(half, count)))
    return builder.extract_element(numbers, ir.Constant(_INT32, 0))


def _decoded(builder: Any, codes: Any, count: int, scalars: list[Any]) -> Any:
    kind = _kind(_FLOAT, count)
    scale, bias = (spread(builder, value, kind) for value in scalars)
    levels = builder.uitofp(builder.zext(codes, _kind(_INT32, count)), kind)
    return builder.fadd(bias, builder.fmul(levels, scale, flags=FUSED), flags=FUSED)


def _nibbles(builder: Any, row: Any, index: Any, count: int) -> Any:
    """Codes of 4 bits, each in a byte."""
    if count == 1:
        pair = _part(builder, row, builder.lshr(index, ir.Constant(_INT64, 1)), _BYTE, 1)
        odd = builder.trunc(builder.and_(index, ir.Constant(_INT64, 1)), _BYTE)
        right = builder.lshr(pair, builder.shl(odd, ir.Constant(_BYTE, 2)))
        return builder.and_(right, ir.Constant(_BYTE, 15))
    half = count // 2
    pairs = _part(builder, row, index, _BYTE, half)
    low = builder.and_(pairs, _all(_BYTE, half, 15))
    high = builder.lshr(pairs, _all(_BYTE, half, 4))
    return _shuffled(builder, low, high, [i // 2 + half * (i % 2) for i in range(count)])


def _sums(load: Callable[[Any, Any, Any], Any]) -> tuple[Any, Any]:
    """Signature and code of 16 rows' sums of products with weights."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, row_bytes, weights, parts, sums = arguments
        zeros = _all(_INT32, LANES, 0)
        totals = [cgutils.alloca_once_value(builder, zeros) for _ in range(LANES)]
        wide = _kind(_INT32, 2 * LANES)
        with cgutils.for_range(builder, parts) as loop:
            weight = _part(builder, weights, loop.index, _SHORT, 2 * LANES)
            for number, total in enumerate(totals):
                row = builder.add(rows, builder.mul(row_bytes, ir.Constant(_INT64, number)))
                codes = builder.zext(load(builder, row, loop.index), wide)
                products = builder.mul(codes, builder.sext(weight, wide))
                pairs = [
                    _shuffled(builder, products, products, range(odd, 2 * LANES, 2))
                    for odd in (0, 1)
                ]
                builder.store(builder.add(builder.load(total), builder.add(*pairs)), total)
        result = _lane_sums(builder, [builder.load(total) for total in totals])
        builder.store(result, builder.inttoptr(sums, result.type.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(*[types.uint64] * 5), generate


def _lane_sums(builder: Any, vectors: list[Any]) -> Any:
    """Of 16 vectors of 16 lanes the sum of each one's lanes, in the order of the vectors."""
    step = 1
    while len(vectors) > 1:
        low = [lane + (LANES - step) * (lane // step % 2) for lane in range(LANES)]
        high = [lane + step + (LANES - step) * (lane // step % 2) for lane in range(LANES)]
        vectors = [
            builder.add(_shuffled(builder, a, b, low), _shuffled(builder, a, b, high))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        step *= 2
    return vectors[0]


def _shuffled(builder: Any, a: Any, b: Any, lanes: Any) -> Any:
    chosen = list(lanes)
    return builder.shuffle_vector(
        a, b, ir.Constant(ir.VectorType(_INT32, len(chosen)), chosen)
    )  # fmt: skip


def _kind(of: Any, count: int) -> Any:
    return of if count == 1 else ir.VectorType(of, count)


def _all(of: Any, count: int, value: float) -> Any:
    return ir.Constant(_kind(of, count), value if count == 1 else [value] * count)


def _part(builder: Any, address: Any, index: Any, of: Any, count: int) -> Any:
    """`count` numbers that stand behind `index` times as many."""
    kind = _kind(of, count)
    value = builder.load(builder.gep(builder.inttoptr(address, kind.as_pointer()), [index]))
    value.align = 1
    return value
