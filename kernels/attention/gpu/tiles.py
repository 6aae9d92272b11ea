"""The fixed table of tiles: nothing is tuned while the program runs.

Chosen by what the compiler reports (no spills, shared memory within the limits of sm_80 and sm_90,
products of Hopper's warp groups that do not wait for each other) and by counting instructions;
`tests/kernels/attention_gpu` compiles every entry.
"""

from dataclasses import dataclass

import torch

WIDTHS = (32, 64, 128, 256)
"""Padded widths of a head's queries and keys, and of its values."""


@dataclass(frozen=True)
class Tile:
    """How one kernel is cut and compiled."""

    rows: int
    keys: int
    warps: int
    stages: int
    registers: int = 255
    """Of a thread, at most. Left to itself the compiler spills where some are free."""

    def options(self) -> dict[str, int]:
        """For the compiler."""
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": self.registers}


@dataclass(frozen=True)
class Tiles:
    """One tile for each kernel; that of `backward_rows` serves `backward_near`, too.

    `apart`: where registers do not suffice for two results at a time, every one is computed in a
    launch of its own, at the price of computing the logits again. `many`: from so many edges
    between buckets on the gradients of a tile are left to `backward_near`.
    """

    forward: Tile
    backward_rows: Tile
    backward_keys: Tile
    apart: bool = False
    many: int = 10

    unbiased: Tile | None = None
    """The forward kernel's where there is no bias, if it differs: with fewer registers two programs
    share a multiprocessor."""

    def forward_of(self, biased: bool) -> Tile:
        """The forward kernel's tile."""
        return self.forward if biased or self.unbiased is None else self.unbiased


Table = dict[tuple[int, int] | int, Tiles]
"""By padded widths of keys and values, else by the wider one."""

_NARROW = Tile(128, 64, 8, 3, registers=128)

_HOPPER_BF16: Table = {
    32: Tiles(Tile(128, 64, 8, 3), Tile(64, 32, 4, 3), Tile(64, 64, 4, 3), unbiased=_NARROW),
    64: Tiles(Tile(128, 64, 8, 3), Tile(64, 64, 4, 3), Tile(64, 64, 4, 3), unbiased=_NARROW),
    128: Tiles(Tile(128, 64, 8, 3), Tile(64, 32, 4, 3), Tile(32, 128, 8, 3)),
    256: Tiles(Tile(64, 64, 8, 2), Tile(64, 16, 8, 2), Tile(32, 64, 8, 3), apart=True),
    (64, 32): Tiles(Tile(128, 64, 8, 3), Tile(64, 32, 4, 3), Tile(64, 64, 4, 3), unbiased=_NARROW),
}
_BF16: Table = {
    32: Tiles(Tile(128, 64, 8, 3), Tile(64, 32, 8, 2), Tile(32, 128, 8, 2)),
    64: Tiles(Tile(128, 64, 8, 3), Tile(64, 32, 8, 2), Tile(32, 128, 8, 2)),
    128: Tiles(Tile(128, 32, 8, 3), Tile(64, 32, 8, 2), Tile(32, 64, 4, 2)),
    256: Tiles(Tile(64, 32, 8, 2), Tile(64, 32, 8, 2), Tile(32, 64, 8, 2), apart=True),
    (32, 128): Tiles(Tile(128, 32, 8, 3), Tile(64, 32, 8, 2), Tile(32, 32, 8, 2)),
    (64, 32): Tiles(Tile(128, 64, 8, 3), Tile(64, 16, 8, 2), Tile(32, 128, 8, 2)),
    (64, 128): Tiles(Tile(128, 32, 8, 3), Tile(64, 16, 8, 2), Tile(32, 32, 8, 2)),
    (64, 256): Tiles(Tile(64, 32, 8, 2), Tile(64, 16, 8, 2), Tile(32, 32, 8, 2), apart=True),
}
_TF32: Table = {
    32: Tiles(Tile(64, 32, 4, 2), Tile(64, 32, 8, 2), Tile(32, 64, 8, 2)),
    64: Tiles(Tile(64, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 4, 2)),
    128: Tiles(Tile(64, 32, 8, 2), Tile(32, 32, 8, 2), Tile(32, 32, 4, 2)),
    256: Tiles(Tile(32, 16, 8, 2), Tile(32, 32, 8, 2), Tile(32, 32, 8, 2)),
    (32, 128): Tiles(Tile(64, 32, 8, 2), Tile(32, 16, 8, 2), Tile(16, 32, 8, 2)),
    (32, 256): Tiles(Tile(32, 16, 8, 2), Tile(16, 16, 8, 2), Tile(16, 16, 8, 2)),
}
_FP32: Table = {
    32: Tiles(Tile(64, 32, 8, 1), Tile(32, 32, 8, 1), Tile(32, 32, 8, 1)),
    64: Tiles(Tile(32, 32, 8, 1), Tile(32, 32, 8, 1), Tile(16, 32, 8, 1)),
    128: Tiles(Tile(16, 32, 8, 1), Tile(16, 16, 8, 1), Tile(16, 32, 8, 1)),
    256: Tiles(Tile(16, 16, 8, 1), Tile(16, 16, 8, 1), Tile(16, 16, 8, 1), many=64),
}


def padded(width: int) -> int:
    """The padded width of a head. Raises ValueError for heads that are too wide."""
    for block in WIDTHS:
        if width <= block:
            return block
    raise ValueError(f"a head of width {width} is too wide; the kernels take up to {WIDTHS[-1]}")


def tiles_of(
    dtype: torch.dtype, precision: str, k_block: int, v_block: int, *, hopper: bool
) -> Tiles:
    """The table's entry for a pair of padded widths."""
    if dtype == torch.bfloat16:
        table = _HOPPER_BF16 if hopper else _BF16
    else:
        table = _TF32 if precision == "tf32" else _FP32
    return table.get((k_block, v_block)) or table[max(k_block, v_block)]
