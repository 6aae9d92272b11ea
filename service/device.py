"""Where a process computes: what a setting `device` chooses."""

from typing import NamedTuple

import torch

from service.errors import SettingsError

CPU = torch.device("cpu")


class Device(NamedTuple):
    """What a setting `device` chooses."""

    torch: torch.device
    backend: str
    """Of tables of rows: `numba` or `triton`."""


ON_CPU = Device(CPU, "numba")


def chosen(name: str, setting: str) -> Device:
    """The device that a setting names: `cpu`, or `cuda`, which is the CPU under TRITON_INTERPRET=1.

    Raises SettingsError where there is no GPU.
    """
    if name == "cpu":
        return ON_CPU
    if torch.cuda.is_available():
        # With its number, as every tensor that is put there has it.
        return Device(torch.device("cuda", torch.cuda.current_device()), "triton")
    if _interpreted():
        return Device(CPU, "triton")
    raise SettingsError(
        f"setting {setting} = {name!r}, but torch {torch.__version__} finds no GPU; set it to "
        '"cpu", install torch with CUDA and a driver, or set TRITON_INTERPRET=1 before the start '
        "to run the kernels slowly on the CPU"
    )


def _interpreted() -> bool:
    """Whether Triton is there and was imported, or will be, to interpret its kernels."""
    try:
        from kernels.gpu import INTERPRETED
    except ImportError:
        return False
    return INTERPRETED
