"""Every shipped configuration of the attention kernels, compiled ahead of time: no GPU, no driver.

`python -m tests.kernels.attention_gpu.compiling` prints registers, spills and shared memory of all
of them.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.attention.gpu.backward import backward_keys, backward_near, backward_rows
from kernels.attention.gpu.forward import forward
from kernels.attention.gpu.plan import SPAN
from kernels.attention.gpu.tiles import WIDTHS, Tile, tiles_of
from kernels.gating.gpu import gated_backward, gated_forward

MOST_SHARED = {80: 166_912, 90: 232_448}
"""Bytes of shared memory that a program may have."""
HEADS = 4

_BINARIES = Path(triton.__file__).parent / "backends/nvidia/bin"
_TYPES = {
    **dict.fromkeys(["RowMs", "RowEnds", "EventEnds", "EventMs", "EventSpans", "RowSpans"], "*i64"),
    **dict.fromkeys(["Distance", "ByDistance", "Time", "Partial"], "*fp32"),
    **dict.fromkeys(["users", "rows"], "i32"),
    **dict.fromkeys(["alpha", "scale", "k_scale", "v_scale", "eps"], "fp32"),
}
"""Types of arguments by name; what holds numbers has the configuration's, the rest is int32."""
_NUMBERS = {
    "Q", "K", "V", "Out", "GradOut", "GradQ", "GradK", "GradV",
    "Attended", "Gate", "GradAttended", "GradGate",
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A kernel with the constants that it is launched with, for one architecture."""

    kernel: Any
    kind: str
    arch: int
    constants: dict[str, Any]
    options: dict[str, int]

    @property
    def name(self) -> str:
        told = ("K_BLOCK", "V_BLOCK", "ROWS", "KEYS", "HAS_DISTANCE", "HAS_TIME")
        constants = " ".join(f"{name}={self.constants[name]}" for name in told if name in self)
        wanted = [n for n, yes in self.constants.items() if n.startswith("WANT") and yes]
        return f"{self.kernel.__name__} {self.kind} {constants} {' '.join(wanted)}".strip()

    def __contains__(self, name: str) -> bool:
        return name in self.constants


@dataclass(frozen=True)
class Compiled:
    """What came out, and the machine code's needs."""

    name: str
    arch: int
    warps: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    warp_group_products: int
    serialized: bool


def configurations() -> Iterator[Variant]:
    """All that the table of tiles ships: types, architectures, widths of keys and of values; with
    both relative biases, and without any."""
    for kind in ("bf16", "fp32", "tf32"):
        for arch in MOST_SHARED:
            for k_width in WIDTHS:
                for v_width in WIDTHS:
                    yield from kernels_of(kind, arch, k_width, v_width)
            for width in WIDTHS:
                yield from kernels_of(kind, arch, width, width, biased=False)
    for width in (64, 512, 8192):
        yield from gates_of(width)


def kernels_of(
    kind: str, arch: int, k_width: int, v_width: int, biased: bool = True
) -> Iterator[Variant]:
    """The kernels of one configuration."""
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    precision = "tf32" if kind == "tf32" else "ieee"
    tiles = tiles_of(dtype, precision, k_width, v_width, hopper=arch >= 90)
    shared = {
        "HEADS": HEADS, "K_WIDTH": k_width, "V_WIDTH": v_width, "K_BLOCK": k_width,
        "V_BLOCK": v_width, "SPAN": SPAN, "HAS_DISTANCE": biased, "HAS_TIME": biased,
        "PRECISION": precision, "FAST": kind == "bf16", "UPCAST": False, "MANY": tiles.many,
        **_strides(["q", "k"], k_width), **_strides(["v", "out"], v_width),
        **({} if biased else dict.fromkeys(["Distance", "ByDistance", "Time"])),
    }  # fmt: skip

    def variant(kernel: Any, tile: Tile, **more: Any) -> Variant:
        given = {**shared, "ROWS": tile.rows, "KEYS": tile.keys, **more}
        constants = {name: given[name] for name in kernel.arg_names if name in given}
        return Variant(kernel, kind, arch, constants, tile.options())

    yield variant(forward, tiles.forward_of(biased))
    for q, sums in _parts(tiles.apart and biased):
        yield variant(backward_rows, tiles.backward_rows, WANT_Q=q, WANT_SUMS=sums and biased)
    if biased and tiles.many < 64:
        yield variant(backward_near, tiles.backward_rows)
    for k, v in _parts(tiles.apart):
        yield variant(backward_keys, tiles.backward_keys, WANT_K=k, WANT_V=v)


def gates_of(width: int) -> Iterator[Variant]:
    """The norm and gate, for rows of a width that is a power of two."""
    constants = {"WIDTH": width, "BLOCK": width, "ROWS": max(1, 4096 // width)}
    for kernel in (gated_forward, gated_backward):
        for arch in MOST_SHARED:
            yield Variant(kernel, "bf16", arch, constants, {"num_warps": 4 if width <= 4096 else 8})


def compiled(variant: Variant) -> Compiled:
    """The variant, compiled."""
    names = variant.kernel.arg_names
    number = "*bf16" if variant.kind == "bf16" else "*fp32"
    signature = {
        name: "constexpr" if name in variant
        else number if name in _NUMBERS
        else _TYPES.get(name, "*i32")
        for name in names
    }  # fmt: skip
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if kind.startswith("*")
    }
    result = triton.compile(
        ASTSource(variant.kernel, signature, variant.constants, aligned),
        target=GPUTarget("cuda", variant.arch, 32),
        options=variant.options,
    )
    told = _assembled(result.asm["ptx"], variant.arch)
    spilled = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", told)
    registers = re.search(r"Used (\d+) registers", told)
    assert spilled, told
    assert registers, told
    return Compiled(
        variant.name, variant.arch, variant.options["num_warps"], int(registers[1]),
        max(map(int, spilled.groups())), result.metadata.shared,
        len(re.findall(r"wgmma\.mma_async", result.asm["ptx"])), "serialized" in told,
    )  # fmt: skip


def _assembled(ptx: str, arch: int) -> str:
    """What the assembler says of a kernel: registers, spills and what it could not do in time."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        name = "sm_90a" if arch == 90 else f"sm_{arch}"
        run = subprocess.run(
            [_BINARIES / "ptxas", "-v", "--gpu-name", name, file.name, "-o", "/dev/null"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return run.stderr


def _strides(names: list[str], width: int) -> dict[str, int]:
    """Of packed rows of all heads."""
    rows = {f"{name}_row": HEADS * width for name in names}
    return {**rows, **{f"{name}_head": width for name in names}}


def _parts(apart: bool) -> list[tuple[bool, bool]]:
    return [(True, False), (False, True)] if apart else [(True, True)]


if __name__ == "__main__":
    for variant in configurations():
        print(json.dumps(asdict(compiled(variant))), flush=True)
