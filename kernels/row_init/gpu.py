"""Initial vectors on a GPU: bit for bit those of the reference."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu import kernel_device, launch, mix64
from kernels.row_init import reference
from kernels.row_init.reference import GOLDEN, MEAN, STD

_GOLDEN = tl.constexpr(GOLDEN)
_MEAN = tl.constexpr(MEAN)
_TILE = 1024
"""Numbers that a program makes."""


def fill(keys_N: Tensor, seed: int, std: float, rows_ND: Tensor) -> None:
    """Write every key's vector into `rows_ND`, on the keys' device.

    Raises TypeError for keys that are not int64 [N], ValueError for a device without kernels.
    """
    kernel_device(str(keys_N.device))
    if keys_N.dtype != torch.int64 or keys_N.dim() != 1:
        raise TypeError(
            f"keys are {keys_N.dtype} {list(keys_N.shape)}; pass a one-dimensional int64 tensor"
        )
    n, width = rows_ND.shape
    options = tile_options(width)
    unit = torch.tensor(std / STD, dtype=torch.float32).item()
    programs = triton.cdiv(n, options["KEYS"])
    mixed_seed = _signed(reference.mix64(seed))
    launch(fill_tile, programs, keys_N.contiguous(), n, mixed_seed, unit, rows_ND, **options)


def tile_options(width: int) -> dict[str, int]:
    """How `fill_tile` is compiled."""
    padded = triton.next_power_of_2(width)
    keys = max(_TILE // padded, 1)
    return {"WIDTH": width, "PADDED": padded, "KEYS": keys, "num_warps": 4}


def _signed(word: int) -> int:
    """The same 64 bits as a signed number: one kernel serves every seed."""
    return word - 2**64 if word >= 2**63 else word


@triton.jit(do_not_specialize=["n", "seed"])
def fill_tile(
    keys, n, seed, unit, rows, WIDTH: tl.constexpr, PADDED: tl.constexpr, KEYS: tl.constexpr
):
    """Components of some keys' vectors; `seed` is already mixed."""
    i = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    d = tl.arange(0, PADDED)[None, :]
    key = tl.load(keys + i, mask=i < n, other=0)
    start = mix64(key ^ seed)[:, None]
    word = mix64(start + (d + 1).to(tl.uint64) * _GOLDEN)
    total = (word >> 48) + (word >> 32 & 0xFFFF) + (word >> 16 & 0xFFFF) + (word & 0xFFFF)
    value = (total.to(tl.int32) - _MEAN).to(tl.float32) * unit
    at = rows + i.to(tl.int64)[:, None] * WIDTH + d
    tl.store(at, value, mask=(i < n)[:, None] & (d < WIDTH))
