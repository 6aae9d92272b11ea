"""Row codes on a GPU: rows are gathered and decoded in one pass, each byte read once and each
number written once. Same bits as the reference.

The host waits for one look at the rows' range, as nothing outside the table may be read.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu import kernel_device, launch
from kernels.row_codes.codes import Codes, refuse_outside

_TILE = 2048
"""Numbers that a program writes: 16 for each of its 128 threads."""


def gather_decode(codes: Codes | Tensor, rows_N: Tensor, dtype: torch.dtype) -> Tensor:
    """See `kernels.row_codes.gather_decode`; all on one GPU.

    Raises ValueError for a device without kernels.
    """
    kernel_device(str(rows_N.device))
    if isinstance(codes, Tensor):
        parts = (codes, codes, codes)
        end, width, bits = *codes.shape, 8 * codes.itemsize
    else:
        parts = codes[:3]
        end, width, bits = len(codes.codes_RB), codes.width, codes.bits
    refuse_outside(rows_N, end)
    out_ND = torch.empty(len(rows_N), width, dtype=dtype, device=rows_N.device)
    if not out_ND.numel():
        return out_ND
    options = tile_options(width, bits)
    programs = triton.cdiv(len(rows_N), options["ROWS"])
    whole = (part.contiguous() for part in parts)
    launch(decode_rows, programs, rows_N.contiguous(), *whole, out_ND, len(rows_N), **options)
    return out_ND


def tile_options(width: int, bits: int) -> dict[str, int]:
    """How `decode_rows` is compiled."""
    padded = max(triton.next_power_of_2(width), 2)
    rows = max(_TILE // padded, 1)
    return {"WIDTH": width, "PADDED": padded, "BITS": bits, "ROWS": rows, "num_warps": 4}


@triton.jit(do_not_specialize=["n"])
def decode_rows(
    rows, data, scale, bias, out, n,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BITS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """out[i] = row rows[i]: `data` are bytes of codes, or float16 or float32 numbers, which have
    neither scale nor bias."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, PADDED)[None, :]
    row = tl.load(rows + i, mask=i < n, other=0)
    if BITS == 4:
        b = tl.arange(0, PADDED // 2)[None, :]
        exists = (i < n)[:, None] & (b < WIDTH // 2)
        pair = tl.load(data + row[:, None] * (WIDTH // 2) + b, mask=exists, other=0)
        value = tl.interleave(pair & 15, pair >> 4).to(tl.float32)
    else:
        exists = (i < n)[:, None] & (d < WIDTH)
        value = tl.load(data + row[:, None] * WIDTH + d, mask=exists, other=0).to(tl.float32)
    if BITS <= 8:
        step = tl.load(scale + row, mask=i < n, other=0.0).to(tl.float32)
        low = tl.load(bias + row, mask=i < n, other=0.0).to(tl.float32)
        value = low[:, None] + value * step[:, None]
    at = out + i.to(tl.int64)[:, None] * WIDTH + d
    tl.store(at, value.to(out.dtype.element_ty), mask=(i < n)[:, None] & (d < WIDTH))
