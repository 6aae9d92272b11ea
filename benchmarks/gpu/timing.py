"""How every GPU figure is timed."""

import os
import time
from collections.abc import Callable
from itertools import pairwise

import torch


def device_of() -> str:
    """`cuda`, or `cpu` in Triton's interpreter. Raises RuntimeError where there is neither."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "cpu"
    if not torch.cuda.is_available():
        raise RuntimeError("there is no GPU that torch could use; see torch.cuda.is_available()")
    return "cuda"


def seconds(run: Callable[[], object], runs: int) -> list[float]:
    """Of each of some runs after one that does not count; by the device's own clock on a GPU, where
    a run's launches are queued while the one before is still under way."""
    run()
    if device_of() != "cuda":
        values = []
        for _ in range(runs):
            started = time.perf_counter()
            run()
            values.append(time.perf_counter() - started)
        return values
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
    torch.cuda.synchronize()
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1000 for a, b in pairwise(marks)]
