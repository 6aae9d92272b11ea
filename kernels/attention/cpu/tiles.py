"""Small matrix products and transpositions, in 16 lanes, with their sums kept in registers.

Matrices are given by the address of their first float32 and by strides in numbers. Products are
computed for up to 8 rows of the result at a time: 8 x 48 sums stay in registers while both factors
are read once. An element's sum always runs in the same order, one product at a time, whatever rows
and columns are computed with it, so that results do not depend on how work is cut.
"""

from typing import Any

from numba import njit, types
from numba.core import cgutils

from kernels.attention.cpu import vectors as vec
from kernels.attention.cpu.vectors import LANES, intrinsic

ROWS = 8
"""Rows of a product's result."""
_GROUP = 8
"""Sums of `dots` that are added up together."""
VECTORS = 3
"""Vectors of a row that are summed at a time: 8 x 3 sums, 3 + 1 factors in 32 registers."""


@intrinsic
def _product(
    typing_context: Any, a: Any, a_row: Any, a_step: Any, b: Any, b_row: Any, to: Any, to_row: Any,
    rows: Any, columns: Any, depth: Any, add: Any,
) -> Any:  # fmt: skip
    """to[i, j] = sum over d of a[i, d] * b[d, j], plus to[i, j] if `add`; 1 to 8 rows.

    a[i, d] lies a_row * i + a_step * d numbers behind a, b and `to` have contiguous rows.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns = arguments[8]
        tile = vec.integer(LANES * VECTORS)
        tiles = builder.sdiv(builder.add(columns, vec.integer(LANES * VECTORS - 1)), tile)
        with cgutils.for_range(builder, tiles) as loop:
            first = builder.mul(loop.index, tile)
            left = builder.sub(columns, first)
            vectors = builder.sdiv(builder.add(left, vec.integer(LANES - 1)), vec.integer(LANES))
            wide = builder.icmp_signed(">", vectors, vec.integer(VECTORS))
            vectors = builder.select(wide, vec.integer(VECTORS), vectors)
            _switch(
                builder, vectors, VECTORS,
                lambda v: _switch(
                    builder, arguments[7], ROWS,
                    lambda r: _tile(builder, arguments, r, v, first, left),
                ),
            )  # fmt: skip
        return context.get_dummy_value()

    return types.void(*[types.int64] * 11), generate


def _switch(builder: Any, value: Any, last: int, body: Any) -> None:
    """body(n) for the n among 1 .. last that the value is."""
    end = builder.append_basic_block("end")
    choice = builder.switch(value, end)
    for n in range(1, last + 1):
        block = builder.append_basic_block(f"is_{n}")
        choice.add_case(vec.integer(n), block)
        builder.position_at_end(block)
        body(n)
        builder.branch(end)
    builder.position_at_end(end)


def _tile(builder: Any, arguments: Any, rows: int, vectors: int, first: Any, left: Any) -> None:
    """`rows` x `vectors` sums, from column `first` on, of which `left` columns are left."""
    a, a_row, a_step, b, b_row, to, to_row, _, _, depth, add = arguments
    tail = vec.lanes_below(builder, builder.sub(left, vec.integer(LANES * (vectors - 1))))
    masks = [None] * (vectors - 1) + [tail]

    def places(row: Any) -> list[Any]:
        start = builder.add(row, first)
        return [builder.add(start, vec.integer(LANES * v)) for v in range(vectors)]

    sums = [[cgutils.alloca_once(builder, vec.FLOATS) for _ in range(vectors)] for _ in range(rows)]
    results = [places(builder.mul(to_row, vec.integer(i))) for i in range(rows)]
    with builder.if_else(builder.icmp_signed("!=", add, vec.integer(0))) as (adding, setting):
        with adding:
            for i in range(rows):
                for v in range(vectors):
                    builder.store(vec.load(builder, to, results[i][v], masks[v]), sums[i][v])
        with setting:
            for i in range(rows):
                for v in range(vectors):
                    builder.store(vec.ZEROS, sums[i][v])
    with cgutils.for_range(builder, depth) as loop:
        at = places(builder.mul(b_row, loop.index))
        factors = [vec.load(builder, b, place, mask) for place, mask in zip(at, masks, strict=True)]
        step = builder.mul(a_step, loop.index)
        for i in range(rows):
            place = builder.add(builder.mul(a_row, vec.integer(i)), step)
            factor = vec.spread(builder, vec.load_one(builder, a, place))
            for v in range(vectors):
                total = vec.multiply_add(builder, factor, factors[v], builder.load(sums[i][v]))
                builder.store(total, sums[i][v])
    for i in range(rows):
        for v in range(vectors):
            vec.store(builder, builder.load(sums[i][v]), to, results[i][v], masks[v])


@intrinsic
def _transpose(
    typing_context: Any, source: Any, source_row: Any, rows: Any, columns: Any, to: Any,
    to_row: Any,
) -> Any:  # fmt: skip
    """to[c, r] = source[r, c]; `to` is written in whole blocks of 16 x 16, zeros beyond."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, source_row, rows, columns, to, to_row = arguments
        blocks = [
            builder.sdiv(builder.add(n, vec.integer(LANES - 1)), vec.integer(LANES))
            for n in (rows, columns)
        ]
        with cgutils.for_range(builder, blocks[0]) as down, \
                cgutils.for_range(builder, blocks[1]) as across:  # fmt: skip
            row, column = (builder.mul(x.index, vec.integer(LANES)) for x in (down, across))
            inside = vec.lanes_below(builder, builder.sub(columns, column))
            block = []
            for i in range(LANES):
                here = builder.add(row, vec.integer(i))
                count = builder.icmp_signed("<", here, rows)
                mask = builder.select(count, inside, vec.NO_LANES)
                place = builder.add(builder.mul(here, source_row), column)
                block.append(vec.load(builder, source, place, mask))
            for i, vector in enumerate(_transposed(builder, block)):
                there = builder.add(column, vec.integer(i))
                vec.store(builder, vector, to, builder.add(builder.mul(there, to_row), row), None)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


def _transposed(builder: Any, block: list[Any]) -> list[Any]:
    """Swaps quarters of ever larger squares: 1 x 1, 2 x 2, 4 x 4, 8 x 8."""
    for size in (1, 2, 4, 8):
        upper = [lane if not lane & size else LANES + lane - size for lane in range(LANES)]
        lower = [lane + size if not lane & size else LANES + lane for lane in range(LANES)]
        swapped = list(block)
        for i in range(LANES):
            if not i & size:
                pair = block[i], block[i + size]
                swapped[i] = vec.shuffle(builder, *pair, upper)
                swapped[i + size] = vec.shuffle(builder, *pair, lower)
        block = swapped
    return block


@intrinsic
def _dots(
    typing_context: Any, a: Any, b: Any, b_row: Any, to: Any, count: Any, width: Any
) -> Any:  # fmt: skip
    """to[j] = sum over c of a[c] * b[j, c] for the first `count` of 16 rows of b, 0 for others."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b, b_row, to, count, width = arguments
        sums = [cgutils.alloca_once(builder, vec.FLOATS) for _ in range(_GROUP)]
        steps = builder.sdiv(builder.add(width, vec.integer(LANES - 1)), vec.integer(LANES))
        for group in range(0, LANES, _GROUP):
            found = cgutils.alloca_once_value(builder, vec.ZEROS)
            some = builder.icmp_signed(">", count, vec.integer(group))
            with builder.if_then(some):
                for total in sums:
                    builder.store(vec.ZEROS, total)
                with cgutils.for_range(builder, steps) as loop:
                    column = builder.mul(loop.index, vec.integer(LANES))
                    inside = vec.lanes_below(builder, builder.sub(width, column))
                    left = vec.load(builder, a, column, inside)
                    for i, total in enumerate(sums):
                        row = vec.integer(group + i)
                        mask = builder.select(
                            builder.icmp_signed("<", row, count), inside, vec.NO_LANES
                        )
                        place = builder.add(builder.mul(row, b_row), column)
                        right = vec.load(builder, b, place, mask)
                        builder.store(
                            vec.multiply_add(builder, left, right, builder.load(total)), total
                        )
                level = [builder.load(total) for total in sums]
                while len(level) > 1:
                    pairs = zip(level[::2], level[1::2], strict=True)
                    level = [_halved(builder, first, second) for first, second in pairs]
                builder.store(_halved(builder, level[0], vec.ZEROS), found)
            vec.store(builder, builder.load(found), to, vec.integer(group), vec.FIRST_HALF)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


def _halved(builder: Any, first: Any, second: Any) -> Any:
    """Sums of neighbours: of the first vector in lanes 0 .. 7, of the second in the others."""
    even, odd = (
        vec.shuffle(builder, first, second, range(start, 2 * LANES, 2)) for start in (0, 1)
    )
    return builder.fadd(even, odd)


@njit(cache=True, nogil=True)
def product(a, a_row, a_step, b, b_row, to, to_row, rows, columns, depth, add):
    """See `_product`; compiled once for all who call it."""
    _product(a, a_row, a_step, b, b_row, to, to_row, rows, columns, depth, add)


@njit(cache=True, nogil=True)
def transpose(source, source_row, rows, columns, to, to_row):
    """See `_transpose`."""
    _transpose(source, source_row, rows, columns, to, to_row)


@njit(cache=True, nogil=True)
def dots(a, b, b_row, to, count, width):
    """See `_dots`."""
    _dots(a, b, b_row, to, count, width)
