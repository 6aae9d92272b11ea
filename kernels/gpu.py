"""What all Triton kernels share: where they run, how they are launched, the 64-bit mixer.

Imported when backend "triton" is asked for, never before: a server has no triton.
"""

from threading import Lock
from typing import Any

import torch
import triton
import triton.language as tl

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Kernels were imported under TRITON_INTERPRET=1: they run on CPU tensors, program by program."""

_INTERPRETER_PROGRAMS = 8
"""Programs of a persistent kernel there, few and more than one."""
_INTERPRETING = Lock()
"""It puts its own functions into Triton while it runs a kernel, for all threads."""
_PROGRAMS_PER_PROCESSOR = 32
"""As many as a multiprocessor holds at once."""


def kernel_device(device: str) -> torch.device:
    """The device by name, a CUDA one with its number.

    Raises ValueError for one that the kernels cannot run on.
    """
    chosen = torch.device(device)
    if chosen.type == "cuda":
        return torch.device(
            "cuda", torch.cuda.current_device() if chosen.index is None else chosen.index
        )
    if chosen.type != "cpu" or not INTERPRETED:
        raise ValueError(
            f"backend 'triton' does not run on {device!r}; use device 'cuda', backend 'numba', or "
            "set TRITON_INTERPRET=1 before the start to run it slowly on the CPU"
        )
    return chosen


def launch(kernel: Any, programs: int | tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Start a kernel on the device of its first argument, which is a tensor; nothing for no
    programs."""
    grid = (programs,) if isinstance(programs, int) else programs
    if 0 in grid:
        return
    device = arguments[0].device
    with torch.cuda.device(device) if device.type == "cuda" else _INTERPRETING:
        kernel[grid](*arguments, **options)


def resident_programs(device: torch.device) -> int:
    """Programs of one warp that the device runs at once: the grid of a persistent kernel."""
    if device.type != "cuda":
        return _INTERPRETER_PROGRAMS
    processors: int = torch.cuda.get_device_properties(device).multi_processor_count
    return processors * _PROGRAMS_PER_PROCESSOR


@triton.jit
def mix64(word):
    """SplitMix64's finalizer of 64-bit words, as in `kernels.mixing`; the result is unsigned."""
    word = word.to(tl.uint64)
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB
    return word ^ (word >> 31)
