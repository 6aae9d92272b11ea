"""Vectors of 16 numbers in LLVM: what the intrinsics of this package are written with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, njit

LANES = 16

intrinsic: Any = extending.intrinsic
"""Its results are called without the typing context that they are defined with."""

FLOAT, BIT, BYTE, INT32, INT64 = (
    ir.FloatType(), ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64),
)  # fmt: skip
FLOATS, BITS, BYTES, INTS32, INTS64 = (
    ir.VectorType(kind, LANES) for kind in (FLOAT, BIT, BYTE, INT32, INT64)
)
ZEROS = ir.Constant(FLOATS, [0.0] * LANES)
NO_LANES = ir.Constant(BITS, [0] * LANES)
FIRST_HALF = ir.Constant(BITS, [1] * (LANES // 2) + [0] * (LANES // 2))
_FUSED = ("contract",)
"""Lets a product and a sum round once, as fused instructions do."""


def integer(value: int) -> Any:
    """An int64."""
    return ir.Constant(INT64, value)


def constant(value: float, kind: Any = FLOATS) -> Any:
    """The same number in every lane."""
    if kind is FLOATS:
        value = float(np.float32(value))
    return ir.Constant(kind, [value] * LANES)


def load(builder: Any, address: Any, index: Any, mask: Any = None, kind: Any = FLOATS) -> Any:
    """The vector from that element on; 0 where the mask is off, and memory there is not read."""
    place, align = _place(builder, address, index, kind), _bytes(kind)
    if mask is None:
        value = builder.load(place)
        value.align = align
        return value
    function = _declare(
        builder, f"llvm.masked.load.v{LANES}{_name(kind)}.p0", kind,
        [kind.as_pointer(), INT32, BITS, kind],
    )  # fmt: skip
    zeros = ir.Constant(kind, [0] * LANES)
    return builder.call(function, [place, ir.Constant(INT32, align), mask, zeros])


def store(
    builder: Any, value: Any, address: Any, index: Any, mask: Any = None, kind: Any = FLOATS
) -> None:
    """Write the vector from that element on, where the mask is on."""
    place, align = _place(builder, address, index, kind), _bytes(kind)
    if mask is None:
        builder.store(value, place).align = align
        return
    function = _declare(
        builder, f"llvm.masked.store.v{LANES}{_name(kind)}.p0", ir.VoidType(),
        [kind, kind.as_pointer(), INT32, BITS],
    )  # fmt: skip
    builder.call(function, [value, place, ir.Constant(INT32, align), mask])


def load_one(builder: Any, address: Any, index: Any) -> Any:
    """The float32 at that element."""
    value = builder.load(builder.gep(builder.inttoptr(address, FLOAT.as_pointer()), [index]))
    value.align = 4
    return value


def gather(builder: Any, address: Any, indexes: Any) -> Any:
    """The float32s at those elements (int32)."""
    places = _places(builder, address, indexes)
    function = _declare(
        builder, f"llvm.masked.gather.v{LANES}f32.v{LANES}p0", FLOATS,
        [places.type, INT32, BITS, FLOATS],
    )  # fmt: skip
    every = ir.Constant(BITS, [1] * LANES)
    return builder.call(function, [places, ir.Constant(INT32, 4), every, ZEROS])


def scatter(builder: Any, value: Any, address: Any, indexes: Any) -> None:
    """Write lanes to those elements (int32)."""
    places = _places(builder, address, indexes)
    function = _declare(
        builder, f"llvm.masked.scatter.v{LANES}f32.v{LANES}p0", ir.VoidType(),
        [FLOATS, places.type, INT32, BITS],
    )  # fmt: skip
    every = ir.Constant(BITS, [1] * LANES)
    builder.call(function, [value, places, ir.Constant(INT32, 4), every])


def spread(builder: Any, value: Any) -> Any:
    """A scalar in every lane."""
    kind = ir.VectorType(value.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(INT32, 0))
    return shuffle(builder, first, ir.Constant(kind, ir.Undefined), [0] * LANES)


def shuffle(builder: Any, first: Any, second: Any, lanes: Sequence[int]) -> Any:
    """Lanes of two vectors: 0 .. 15 of the first, 16 .. 31 of the second."""
    return builder.shuffle_vector(
        first, second, ir.Constant(ir.VectorType(INT32, LANES), list(lanes))
    )


def lanes_below(builder: Any, count: Any) -> Any:
    """A mask of the lanes below an int64."""
    numbers = ir.Constant(INTS64, list(range(LANES)))
    return builder.icmp_signed("<", numbers, spread(builder, count))


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c."""
    return builder.fadd(builder.fmul(a, b, flags=_FUSED), c, flags=_FUSED)


def _place(builder: Any, address: Any, index: Any, kind: Any) -> Any:
    one = builder.gep(builder.inttoptr(address, kind.element.as_pointer()), [index])
    return builder.bitcast(one, kind.as_pointer())


def _places(builder: Any, address: Any, indexes: Any) -> Any:
    offsets = builder.mul(builder.sext(indexes, INTS64), ir.Constant(INTS64, [4] * LANES))
    numbers = builder.add(spread(builder, address), offsets)
    return builder.inttoptr(numbers, ir.VectorType(FLOAT.as_pointer(), LANES))


def _declare(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    module = builder.module
    if name in module.globals:
        return module.globals[name]
    return ir.Function(module, ir.FunctionType(result, arguments), name)


def _bytes(kind: Any) -> int:
    return 4 if kind is FLOATS else int(kind.element.width) // 8


def _name(kind: Any) -> str:
    return f"{'f' if kind is FLOATS else 'i'}{8 * _bytes(kind)}"


@njit(cache=True, nogil=True)
def whole(count):
    """Rounded up to whole vectors."""
    return (count + LANES - 1) // LANES * LANES


@njit(cache=True, nogil=True)
def address(array):
    """Where an array's numbers begin, as an int64, which can be added to others."""
    return np.int64(array.ctypes.data)
