"""What a layer does with single rows: norms, gates, sums, in 16 lanes at a time.

Rows are given by the address of their first float32. Nothing is read or written beyond their width.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from kernels.attention.cpu import vectors as vec
from kernels.attention.cpu.vectors import LANES, intrinsic
from kernels.attention.cpu.weights import each_vector, sigmoid

_FIRST = ir.Constant(vec.INT32, 0)


@intrinsic
def activate(typing_context: Any, row: Any, bias: Any, width: Any) -> Any:
    """row = SiLU(row + bias)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row, bias, width = arguments

        def body(first: Any) -> None:
            inside = _inside(builder, width, first)
            x = builder.fadd(
                vec.load(builder, row, first, inside), vec.load(builder, bias, first, inside)
            )
            vec.store(builder, builder.fmul(x, sigmoid(builder, x)), row, first, inside)

        each_vector(builder, width, body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def normalise(typing_context: Any, to: Any, source: Any, gate: Any, width: Any, eps: Any) -> Any:
    """to = (source - mean) / sqrt(variance + eps), times gate unless that is 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, source, gate, width, eps = arguments
        count = builder.sitofp(width, vec.FLOAT)

        def each(body: Any) -> None:
            each_vector(builder, width, lambda first: body(first, _inside(builder, width, first)))

        def mean_of(term: Any) -> Any:
            total = cgutils.alloca_once_value(builder, vec.ZEROS)
            each(
                lambda first, inside: builder.store(
                    builder.fadd(builder.load(total), term(first, inside)), total
                )
            )
            return builder.fdiv(_total(builder, builder.load(total)), count)

        mean = vec.spread(builder, mean_of(lambda a, m: vec.load(builder, source, a, m)))

        def apart(first: Any, inside: Any) -> Any:
            return builder.fsub(vec.load(builder, source, first, inside), mean)

        def square(first: Any, inside: Any) -> Any:
            x = builder.select(inside, apart(first, inside), vec.ZEROS)
            return builder.fmul(x, x)

        root = _root(builder, builder.fadd(mean_of(square), eps))
        factor = vec.spread(builder, builder.fdiv(ir.Constant(vec.FLOAT, 1.0), root))
        gated = builder.icmp_signed("!=", gate, vec.integer(0))

        def plain(first: Any, inside: Any) -> None:
            value = builder.fmul(apart(first, inside), factor)
            vec.store(builder, value, to, first, inside)

        def times_gate(first: Any, inside: Any) -> None:
            value = builder.fmul(apart(first, inside), factor)
            value = builder.fmul(value, vec.load(builder, gate, first, inside))
            vec.store(builder, value, to, first, inside)

        with builder.if_else(gated) as (with_gate, without):
            with with_gate:
                each(times_gate)
            with without:
                each(plain)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4, types.float32), generate


@intrinsic
def add(typing_context: Any, to: Any, source: Any, bias: Any, width: Any) -> Any:
    """to += source + bias."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, source, bias, width = arguments

        def body(first: Any) -> None:
            inside = _inside(builder, width, first)
            more = builder.fadd(
                vec.load(builder, source, first, inside), vec.load(builder, bias, first, inside)
            )
            total = builder.fadd(vec.load(builder, to, first, inside), more)
            vec.store(builder, total, to, first, inside)

        each_vector(builder, width, body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def add_own(
    typing_context: Any, to: Any, q: Any, k: Any, v: Any, width: Any, value_width: Any,
    alpha: Any, bias: Any, scale: Any,
) -> Any:  # fmt: skip
    """to += SiLU(alpha * (q . k) + bias) * scale * v."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, q, k, v, width, value_width, alpha, bias, scale = arguments
        total = cgutils.alloca_once_value(builder, vec.ZEROS)

        def dot(first: Any) -> None:
            inside = _inside(builder, width, first)
            a, b = (vec.load(builder, x, first, inside) for x in (q, k))
            builder.store(vec.multiply_add(builder, a, b, builder.load(total)), total)

        each_vector(builder, width, dot)
        found = vec.spread(builder, _total(builder, builder.load(total)))
        alpha, bias, scale = (vec.spread(builder, x) for x in (alpha, bias, scale))
        logit = vec.multiply_add(builder, alpha, found, bias)
        share = builder.fmul(builder.fmul(logit, sigmoid(builder, logit)), scale)

        def sum_up(first: Any) -> None:
            inside = _inside(builder, value_width, first)
            value = vec.load(builder, v, first, inside)
            before = vec.load(builder, to, first, inside)
            vec.store(builder, vec.multiply_add(builder, share, value, before), to, first, inside)

        each_vector(builder, value_width, sum_up)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6, *[types.float32] * 3), generate


def _inside(builder: Any, width: Any, first: Any) -> Any:
    """The lanes from `first` on that the row has."""
    return vec.lanes_below(builder, builder.sub(width, first))


def _total(builder: Any, vector: Any) -> Any:
    """The sum of all lanes, in one order."""
    for step in (8, 4, 2, 1):
        turned = vec.shuffle(builder, vector, vector, [(i + step) % LANES for i in range(LANES)])
        vector = builder.fadd(vector, turned)
    return builder.extract_element(vector, _FIRST)


def _root(builder: Any, value: Any) -> Any:
    function = builder.module.declare_intrinsic("llvm.sqrt", [vec.FLOAT])
    return builder.call(function, [value])
