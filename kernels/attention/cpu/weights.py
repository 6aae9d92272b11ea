"""Bias, weights and their derivative, 16 events of one row at a time.

Rows are given by the address of their first number and a count of events; of the last vector, more
than the count is read and written.
"""

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from kernels.attention.cpu import vectors as vec
from kernels.attention.cpu.vectors import LANES, intrinsic

_LOG2 = math.log(2)
_LOG2_HIGH = 0.693359375
"""The first bits of log 2: products with whole numbers up to 2^12 are exact."""
_LARGEST = 87.0
"""e^x is a normal float32 for x between -87 and 87."""
_ROUNDER = 1.5 * 2**23
"""Added to a float32 it leaves the nearest whole number in the last bits of the sum."""


def each_vector(builder: Any, columns: Any, body: Any) -> None:
    """body(first column) for every 16 columns, the last partly beyond."""
    count = builder.sdiv(builder.add(columns, vec.integer(LANES - 1)), vec.integer(LANES))
    with cgutils.for_range(builder, count) as loop:
        body(builder.mul(loop.index, vec.integer(LANES)))


@intrinsic
def biases(
    typing_context: Any, to: Any, by_distance: Any, buckets: Any, by_time: Any, columns: Any
) -> Any:  # fmt: skip
    """to[j] = by_distance[j] + by_time[buckets[j]], without the latter where by_time is 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, by_distance, buckets, by_time, columns = arguments

        def near(first: Any) -> None:
            vec.store(builder, vec.load(builder, by_distance, first), to, first)

        def both(first: Any) -> None:
            found = vec.load(builder, buckets, first, kind=vec.BYTES)
            entry = builder.zext(found, vec.INTS32)
            total = builder.fadd(
                vec.load(builder, by_distance, first), vec.gather(builder, by_time, entry)
            )
            vec.store(builder, total, to, first)

        with builder.if_else(builder.icmp_signed("==", by_time, vec.integer(0))) as (a, b):
            with a:
                each_vector(builder, columns, near)
            with b:
                each_vector(builder, columns, both)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@intrinsic
def weigh(
    typing_context: Any, scores: Any, bias: Any, limit: Any, columns: Any, alpha: Any, scale: Any
) -> Any:  # fmt: skip
    """scores[j] = SiLU(alpha * scores[j] + bias[j]) * scale below the limit, else 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scores, bias, limit, columns, alpha, scale = arguments
        alpha, scale = (vec.spread(builder, x) for x in (alpha, scale))

        def body(first: Any) -> None:
            logit = vec.multiply_add(
                builder, alpha, vec.load(builder, scores, first), vec.load(builder, bias, first)
            )
            gate = sigmoid(builder, logit)
            weight = builder.fmul(builder.fmul(logit, gate), scale)
            seen = vec.lanes_below(builder, builder.sub(limit, first))
            vec.store(builder, builder.select(seen, weight, vec.ZEROS), scores, first)

        each_vector(builder, columns, body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4, types.float32, types.float32), generate


@intrinsic
def derive(
    typing_context: Any, scores: Any, grads: Any, bias: Any, totals: Any, add: Any, limit: Any,
    columns: Any, alpha: Any, scale: Any,
) -> Any:  # fmt: skip
    """Weights as `weigh` leaves them in scores; in grads, those of weights before, alpha times the
    gradients of logits; the latter are added to totals, or set there."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scores, grads, bias, totals, add, limit, columns, alpha, scale = arguments
        alpha, scale = (vec.spread(builder, x) for x in (alpha, scale))
        one = vec.constant(1.0)
        adding = builder.icmp_signed("!=", add, vec.integer(0))
        keep = vec.spread(builder, adding)

        def body(first: Any) -> None:
            logit = vec.multiply_add(
                builder, alpha, vec.load(builder, scores, first), vec.load(builder, bias, first)
            )
            gate = sigmoid(builder, logit)
            seen = vec.lanes_below(builder, builder.sub(limit, first))
            weight = builder.fmul(builder.fmul(logit, gate), scale)
            vec.store(builder, builder.select(seen, weight, vec.ZEROS), scores, first)
            rest = builder.fmul(logit, builder.fsub(one, gate))
            slope = builder.fmul(vec.multiply_add(builder, gate, rest, gate), scale)
            grad = builder.fmul(vec.load(builder, grads, first), slope)
            grad = builder.select(seen, grad, vec.ZEROS)
            vec.store(builder, builder.fmul(grad, alpha), grads, first)
            before = vec.load(builder, totals, first, keep)
            vec.store(builder, builder.fadd(before, grad), totals, first)

        each_vector(builder, columns, body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7, types.float32, types.float32), generate


@intrinsic
def add_to_distances(typing_context: Any, to: Any, grads: Any, columns: Any) -> Any:
    """to[j] += grads[j]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, grads, columns = arguments

        def body(first: Any) -> None:
            total = builder.fadd(vec.load(builder, to, first), vec.load(builder, grads, first))
            vec.store(builder, total, to, first)

        each_vector(builder, columns, body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def add_to_times(typing_context: Any, to: Any, buckets: Any, grads: Any, columns: Any) -> Any:
    """to[buckets[j], j % 16] += grads[j]: lanes do not meet."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, buckets, grads, columns = arguments
        lane = ir.Constant(vec.INTS32, list(range(LANES)))

        def body(first: Any) -> None:
            entry = builder.zext(vec.load(builder, buckets, first, kind=vec.BYTES), vec.INTS32)
            entry = builder.add(builder.mul(entry, ir.Constant(vec.INTS32, [LANES] * LANES)), lane)
            total = builder.fadd(vec.gather(builder, to, entry), vec.load(builder, grads, first))
            vec.scatter(builder, total, to, entry)

        each_vector(builder, columns, body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def time_buckets(typing_context: Any, to: Any, at_ms: Any, event_at_ms: Any, columns: Any) -> Any:
    """to[j] = `time_bucket` of at_ms - event_at_ms[j], one byte each, in whole vectors."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, at_ms, event_at_ms, columns = arguments
        at_ms = vec.spread(builder, at_ms)

        def body(first: Any) -> None:
            inside = vec.lanes_below(builder, builder.sub(columns, first))
            event = vec.load(builder, event_at_ms, first, inside, vec.INTS64)
            gap = builder.sub(at_ms, event)
            zero = ir.Constant(vec.INTS64, [0] * LANES)
            gap = builder.select(builder.icmp_signed("<", gap, zero), zero, gap)
            gap = builder.add(gap, ir.Constant(vec.INTS64, [1000] * LANES))
            seconds = builder.fmul(builder.sitofp(gap, vec.FLOATS), vec.constant(0.001))
            bits = builder.bitcast(seconds, vec.INTS32)
            bucket = builder.ashr(bits, ir.Constant(vec.INTS32, [22] * LANES))
            bucket = builder.sub(bucket, ir.Constant(vec.INTS32, [254] * LANES))
            for edge, sign in ((0, "<"), (63, ">")):
                bound = ir.Constant(vec.INTS32, [edge] * LANES)
                bucket = builder.select(builder.icmp_signed(sign, bucket, bound), bound, bucket)
            vec.store(builder, builder.trunc(bucket, vec.BYTES), to, first, kind=vec.BYTES)

        each_vector(builder, columns, body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def sigmoid(builder: Any, x: Any) -> Any:
    """1 / (1 + e^-x)."""
    one = vec.constant(1.0)
    return builder.fdiv(one, builder.fadd(one, _exponential(builder, builder.fneg(x))))


def _exponential(builder: Any, x: Any) -> Any:
    """e^x = 2^n e^r, |r| <= log(2) / 2, the latter by its Taylor series up to r^7 / 7!."""
    for sign, edge in ((">", _LARGEST), ("<", -_LARGEST)):
        bound = vec.constant(edge)
        x = builder.select(builder.fcmp_ordered(sign, x, bound), bound, x)
    shifted = vec.multiply_add(builder, x, vec.constant(1 / _LOG2), vec.constant(_ROUNDER))
    whole = builder.fsub(shifted, vec.constant(_ROUNDER))
    rest = vec.multiply_add(builder, whole, vec.constant(-_LOG2_HIGH), x)
    rest = vec.multiply_add(builder, whole, vec.constant(_LOG2_HIGH - _LOG2), rest)
    value = vec.constant(1 / math.factorial(7))
    for power in range(6, -1, -1):
        value = vec.multiply_add(builder, value, rest, vec.constant(1 / math.factorial(power)))
    # The last bits of `shifted` are n; adding n to a float32's exponent multiplies by 2^n.
    exponent = builder.shl(
        builder.bitcast(shifted, vec.INTS32), ir.Constant(vec.INTS32, [23] * LANES)
    )
    return builder.bitcast(builder.add(builder.bitcast(value, vec.INTS32), exponent), vec.FLOATS)
