"""Every Triton kernel as it is launched, compiled ahead of time: no GPU, no driver.

`python -m tests.kernels.gpu.compiling` prints registers, spills and shared memory of all of them.
"""

import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels import slabs
from kernels.key_index import claims
from kernels.row_codes import gpu as row_codes
from kernels.row_init import gpu as row_init
from kernels.rows import moves, windows

WIDTHS = (32, 64, 128, 256)
MOST_SHARED = {80: 166_912, 90: 232_448}
"""Bytes of shared memory that a program may have."""

_WORDS, _FLOATS = "*i64", "*fp32"
_TYPES = {
    "is_start": "*i1", "first": "*i1",
    "counters": "*i32", "ranks": "*i32", "starts": "*i32", "pieces": "*i32", "table": "*i32",
    "n": "i32", "free_end": "i32", "rows_end": "i32", "half_life_ms": "i32",
    "first_ms": "i64", "last_ms": "i64", "seed": "i64", "unit": "fp32",
    **dict.fromkeys(["grads", "parts", "part_weight"], _FLOATS),
    **dict.fromkeys(["rate", "eps", "beta1", "rest1", "log1", "beta2", "rest2", "log2"], "fp32"),
}  # fmt: skip
"""Types of arguments by name; pointers to int64 where nothing is said."""


@dataclass(frozen=True)
class Variant:
    """A kernel with the constants and warps that it is launched with, and its special types."""

    kernel: Any
    options: dict[str, Any]
    types: dict[str, str]

    @property
    def name(self) -> str:
        told = [f"{name}={value}" for name, value in self.options.items()]
        return f"{self.kernel.__name__}({', '.join(told)})"


@dataclass(frozen=True)
class Compiled:
    """What came out, and the machine code's needs."""

    name: str
    arch: int
    warps: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    wide_loads: int
    ptx: str


def variants() -> Iterator[Variant]:
    """All kernels of the project."""
    yield from _index_variants()
    yield from _copy_variants()
    yield from _row_variants()
    yield from _decode_variants()


def _index_variants() -> Iterator[Variant]:
    extra = {
        claims.find: [{"PLACES": False}, {"PLACES": True}],
        claims.mark_first: [{"MARK": claims.FIRST_NEW.value}, {"MARK": claims.FIRST_GONE.value}],
    }
    kernels = (
        claims.find, claims.claim, claims.withdraw, claims.mark_first, claims.number, claims.drop,
        claims.release, claims.move, claims.count, claims.place_all,
    )  # fmt: skip
    for kernel in kernels:
        for more in extra.get(kernel, [{}]):
            yield Variant(kernel, {**claims.OPTIONS, **more}, {})


def _copy_variants() -> Iterator[Variant]:
    columns = [(width, width, 0, _FLOATS) for width in WIDTHS]
    columns += [(1, 4, 0, _WORDS), (1, 8, 4, _FLOATS), (1, 8, 7, "*i32"), (1, 1, 0, "*u8")]
    for width, stride, offset, kind in columns:
        options = slabs.copy_options(width, stride, offset)
        yield Variant(slabs.read_rows, options, {"out": kind})
        yield Variant(slabs.write_rows, options, {"values": kind})
    for width in WIDTHS:
        yield Variant(row_init.fill_tile, row_init.tile_options(width), {"rows": _FLOATS})


def _row_variants() -> Iterator[Variant]:
    sorted_rows = {"rows": "*i32"}
    yield Variant(windows.mark_starts, windows.OPTIONS, sorted_rows)
    yield Variant(windows.list_starts, windows.OPTIONS, {})
    for decays in (True, False):
        options = {"DECAYS": decays, **moves.TOUCH_OPTIONS}
        yield Variant(moves.touch_windows, options, sorted_rows)
    yield Variant(moves.touch_folded, moves.TOUCH_FOLD_OPTIONS, sorted_rows)
    for width in WIDTHS:
        for adam in (True, False):
            yield Variant(moves.step_pieces, moves.piece_options(width, adam), sorted_rows)
            yield Variant(moves.step_folded, moves.fold_options(width, adam), sorted_rows)


def _decode_variants() -> Iterator[Variant]:
    kinds = {4: ("*u8", "*fp16"), 8: ("*u8", "*fp16"), 16: ("*fp16",) * 2, 32: (_FLOATS,) * 2}
    for width, bits, out in itertools.product(WIDTHS, kinds, (_FLOATS, "*bf16")):
        data, halves = kinds[bits]
        types = {"data": data, "scale": halves, "bias": halves, "out": out}
        yield Variant(row_codes.decode_rows, row_codes.tile_options(width, bits), types)


def compiled(variant: Variant, arch: int) -> Compiled:
    """The variant compiled for an architecture, sm_80 or sm_90."""
    constants = {name: value for name, value in variant.options.items() if name != "num_warps"}
    warps = variant.options["num_warps"]
    types = {**_TYPES, **variant.types}
    names = variant.kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else types.get(name, _WORDS) for name in names
    }
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if kind.startswith("*")
    }
    source = ASTSource(variant.kernel, signature, constants, aligned)
    result = triton.compile(
        source, target=GPUTarget("cuda", arch, 32), options={"num_warps": warps}
    )
    registers, spilled = _needs(result.asm["cubin"])
    ptx = result.asm["ptx"]
    wide = len(re.findall(r"ld\.global\S*\.v4\.", ptx))
    shared = result.metadata.shared
    return Compiled(variant.name, arch, warps, registers, spilled, shared, wide, ptx)


def _needs(machine_code: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes that it keeps in memory for want of more."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(machine_code)
        file.flush()
        told = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", told)
    assert found, told
    registers, stack, local = map(int, found.groups())
    return registers, stack + local


if __name__ == "__main__":
    for variant in variants():
        for arch in MOST_SHARED:
            figures = asdict(compiled(variant, arch))
            del figures["ptx"]
            print(json.dumps(figures))
