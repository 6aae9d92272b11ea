"""Asking for rows many steps ahead of their use, into the second-level cache.

The first holds too few of them, and what is under way to it is what limits random reads.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, njit, types

_LINE, _ZERO = np.uint64(64), np.uint64(0)
_BYTE, _INT32 = ir.IntType(8), ir.IntType(32)

intrinsic: Any = extending.intrinsic


@intrinsic
def prefetch_far(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address, into the second-level cache."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INT32, _INT32, _INT32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [_BYTE.as_pointer()], kind)
        read, second_level, data = (ir.Constant(_INT32, value) for value in (0, 2, 1))
        builder.call(function, [pointer, read, second_level, data])
        return context.get_dummy_value()

    return types.void(types.uint64), generate


@njit(cache=True, nogil=True)
def prefetch_row(address: Any, row_bytes: Any) -> None:
    """Ask for every line of a row."""
    for offset in range(_ZERO, row_bytes, _LINE):
        prefetch_far(address + offset)
