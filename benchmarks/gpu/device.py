"""What the figures were measured on: name, versions, clocks, rates of product and copy."""

import platform
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.sections import Job
from benchmarks.gpu.timing import device_of, seconds
from benchmarks.report import Figure


def jobs(quick: bool) -> Iterator[Job]:
    """One, which names the device."""
    yield Job("rates of the device", lambda: _rates(quick))


def _rates(quick: bool) -> Iterator[Figure]:
    device, facts = device_of(), describe()
    size = 256 if quick else 8192
    dtype = torch.bfloat16
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    rates = [2 * size**3 / s / 1e12 for s in seconds(lambda: a @ b, 3 if quick else 20)]
    yield Figure.of("device.matmul_tflops", "TFLOP/s", rates, size=size, dtype="bfloat16", **facts)
    x = torch.zeros(1 << (16 if quick else 30), dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    copied = [2 * len(x) / s / 1e9 for s in seconds(lambda: y.copy_(x), 3 if quick else 20)]
    yield Figure.of("device.copy_gb_per_second", "GB/s", copied, bytes=len(x))


def describe() -> dict[str, Any]:
    """The device and all versions, in words."""
    import numba
    import numpy
    import triton

    versions = {
        "python": platform.python_version(), "torch": torch.__version__,
        "cuda": torch.version.cuda, "triton": triton.__version__, "numba": numba.__version__,
        "numpy": numpy.__version__,
    }  # fmt: skip
    if device_of() != "cuda":
        return {"name": "the CPU, in Triton's interpreter", **versions}
    it = torch.cuda.get_device_properties(0)
    return {
        "name": it.name, "capability": f"{it.major}.{it.minor}",
        "multiprocessors": it.multi_processor_count,
        "memory_gib": round(it.total_memory / 2**30, 1),
        **versions, **_clocks(),
    }  # fmt: skip


def _clocks() -> dict[str, str]:
    """Driver and clocks, where nvidia-smi is at hand."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {"clocks": "unknown: there is no nvidia-smi"}
    asked = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    run = subprocess.run(
        [tool, f"--query-gpu={asked}", "--format=csv,noheader", "--id=0"],
        capture_output=True, text=True, check=False, timeout=10,
    )  # fmt: skip
    return {"clocks": f"{asked}: {run.stdout.strip() or run.stderr.strip()}"}
