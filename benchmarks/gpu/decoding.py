"""Rows of a snapshot gathered and decoded on the device, beside float32 rows gathered by torch.

A million random rows of a table that no cache holds, dim 128, as a server of many candidates or an
offline evaluation reads them. Bytes are those that must be moved: codes with scale and bias, or
numbers, in; decoded numbers out.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.sections import Job
from benchmarks.gpu.timing import device_of, seconds
from benchmarks.report import Figure
from kernels.row_codes import Codes, gather_decode

ROWS, BATCH, DIM = 8_000_000, 1_000_000, 128
QUICK_ROWS, QUICK_BATCH = 500, 100
KINDS = {"int8": 8, "int4": 4, "fp16": 16, "fp32": 32}


def jobs(quick: bool) -> Iterator[Job]:
    """A precision each, in float32 and bfloat16, and torch's own gather."""
    rows, batch = (QUICK_ROWS, QUICK_BATCH) if quick else (ROWS, BATCH)
    for kind in KINDS:
        yield Job(f"{kind} rows", partial(_figures, kind, rows, batch, 3 if quick else 20))


def _figures(kind: str, rows: int, batch: int, runs: int) -> Iterator[Figure]:
    device = device_of()
    make = torch.Generator(device).manual_seed(0)
    codes = _random_rows(kind, rows, device, make)
    rows_N = torch.randint(0, rows, (batch,), device=device, generator=make)
    measures: dict[str, Callable[[], object]] = {
        f"decoded to {str(dtype).removeprefix('torch.')}": partial(
            gather_decode, codes, rows_N, "triton", dtype
        )
        for dtype in (torch.float32, torch.bfloat16)
    }
    if kind == "fp32":
        assert isinstance(codes, Tensor)
        measures["index_select"] = partial(codes.index_select, 0, rows_N)
    row_bytes = DIM * KINDS[kind] // 8 + (4 if kind.startswith("int") else 0)
    for name, run in measures.items():
        moved = row_bytes + DIM * (2 if "bfloat16" in name else 4)
        rates = [batch * moved / s / 1e9 for s in seconds(run, runs)]
        yield Figure.of(
            "row_codes.gather_gb_per_second", "GB/s", rates, rows=kind, how=name, batch=batch,
            dim=DIM,
        )  # fmt: skip


def _random_rows(kind: str, rows: int, device: str, make: torch.Generator) -> Codes | Tensor:
    if not kind.startswith("int"):
        values = torch.empty(rows, DIM, device=device).uniform_(-1, 1, generator=make)
        return values.half() if kind == "fp16" else values
    bits, shape = KINDS[kind], (rows, DIM * KINDS[kind] // 8)
    codes = torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=make)
    scale, bias = (torch.rand(rows, device=device, generator=make).half() for _ in range(2))
    return Codes(codes, scale, bias, bits)
