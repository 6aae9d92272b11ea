"""What numba cannot say: prefetching, and arithmetic on whole rows in 16 lanes at a time.

numba vectorises a loop over a row only behind checks that the arrays do not overlap, which for
rows of 64 numbers take as long as the work. These functions take the addresses of contiguous
float32 rows and write their vector instructions themselves; what is left over after the last 16
numbers is done one by one. Every sum runs in a fixed order. Rows must not overlap partly.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

LANES = 16

intrinsic: Any = extending.intrinsic
"""Its results are called without the typing context that they are defined with."""

FUSED = ("contract",)
"""Lets a product and a sum round once, as fused instructions do."""

_FLOAT, _BYTE, _INT32 = ir.FloatType(), ir.IntType(8), ir.IntType(32)

Value = Any
Body = Callable[[Any, Any, Any], None]


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address; any address is allowed."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INT32, _INT32, _INT32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [_BYTE.as_pointer()], kind)
        read, keep_near, data = (ir.Constant(_INT32, value) for value in (0, 3, 1))
        builder.call(function, [pointer, read, keep_near, data])
        return context.get_dummy_value()

    return types.void(types.uint64), generate


@intrinsic
def copy_row(typing_context: Any, to: Any, source: Any, width: Any) -> Any:
    """to = source."""

    def body(builder: Any, at: Any, kind: Any) -> None:
        to_at, source_at = at
        _store(builder, _load(builder, source_at), to_at)

    return _row_function(2, 0, body)


@intrinsic
def add_row(typing_context: Any, to: Any, source: Any, width: Any) -> Any:
    """to += source."""

    def body(builder: Any, at: Any, kind: Any) -> None:
        to_at, source_at = at
        total = builder.fadd(_load(builder, to_at), _load(builder, source_at))
        _store(builder, total, to_at)

    return _row_function(2, 0, body)


@intrinsic
def subtract_scaled(typing_context: Any, to: Any, source: Any, width: Any, scale: Any) -> Any:
    """to -= scale * source."""

    def body(builder: Any, at: Any, kind: Any, scale: Any) -> None:
        to_at, source_at = at
        factor = spread(builder, scale, kind)
        product = builder.fmul(_load(builder, source_at), factor, flags=FUSED)
        _store(builder, builder.fsub(_load(builder, to_at), product, flags=FUSED), to_at)

    return _row_function(2, 1, body)


@intrinsic
def blend_row(
    typing_context: Any, to: Any, source: Any, width: Any, keep: Any, take: Any
) -> Any:  # fmt: skip
    """to = keep * to + take * source."""

    def body(builder: Any, at: Any, kind: Any, keep: Any, take: Any) -> None:
        to_at, source_at = at
        kept = builder.fmul(_load(builder, to_at), spread(builder, keep, kind), flags=FUSED)
        taken = builder.fmul(_load(builder, source_at), spread(builder, take, kind), flags=FUSED)
        _store(builder, builder.fadd(kept, taken, flags=FUSED), to_at)

    return _row_function(2, 2, body)


@intrinsic
def sum_of_squares(typing_context: Any, row: Any, width: Any) -> Any:
    """The float32 sum of the row's squares: 16 running sums, added up in order at the end."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, width = arguments
        lanes = ir.VectorType(_FLOAT, LANES)
        sums = cgutils.alloca_once_value(builder, ir.Constant(lanes, [0.0] * LANES))
        rest = cgutils.alloca_once_value(builder, ir.Constant(_FLOAT, 0.0))

        def body(builder: Any, at: Any, kind: Any) -> None:
            total = sums if isinstance(kind, ir.VectorType) else rest
            value = _load(builder, at[0])
            square = builder.fmul(value, value, flags=FUSED)
            builder.store(builder.fadd(builder.load(total), square, flags=FUSED), total)

        _over_row(builder, [address], width, body)
        result, all_sums = builder.load(rest), builder.load(sums)
        for lane in range(LANES):
            one = builder.extract_element(all_sums, ir.Constant(_INT32, lane))
            result = builder.fadd(result, one)
        return result

    return types.float32(types.uint64, types.uint64), generate


def _row_function(rows: int, scalars: int, body: Callable[..., None]) -> tuple[Any, Any]:
    """Signature and code of a function of row addresses, the width and float32 scalars."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        addresses, width, values = arguments[:rows], arguments[rows], arguments[rows + 1 :]
        _over_row(builder, addresses, width, lambda b, at, kind: body(b, at, kind, *values))
        return context.get_dummy_value()

    kinds = [types.uint64] * (rows + 1) + [types.float32] * scalars
    return types.void(*kinds), generate


def _over_row(builder: Any, addresses: Any, width: Any, body: Body) -> None:
    """The body on 16 numbers at a time, then on each that is left."""
    whole = builder.udiv(width, ir.Constant(width.type, LANES))
    lanes = ir.VectorType(_FLOAT, LANES)
    with cgutils.for_range(builder, whole) as loop:
        body(builder, [_place(builder, a, loop.index, lanes) for a in addresses], lanes)
    done = builder.mul(whole, ir.Constant(width.type, LANES))
    with cgutils.for_range(builder, builder.sub(width, done)) as loop:
        index = builder.add(done, loop.index)
        body(builder, [_place(builder, a, index, _FLOAT) for a in addresses], _FLOAT)


def _place(builder: Any, address: Any, index: Any, kind: Any) -> Any:
    return builder.gep(builder.inttoptr(address, kind.as_pointer()), [index])


def _load(builder: Any, place: Any) -> Any:
    value = builder.load(place)
    value.align = 4
    return value


def _store(builder: Any, value: Any, place: Any) -> None:
    builder.store(value, place).align = 4


def spread(builder: Any, value: Any, kind: Any) -> Any:
    """A scalar in every lane."""
    if not isinstance(kind, ir.VectorType):
        return value
    vector = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(vector, value, ir.Constant(_INT32, 0))
    mask = ir.Constant(ir.VectorType(_INT32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, vector, mask)
