"""The device under test, and its tables as if they were on the CPU."""

from typing import Any

from torch import Tensor

from kernels.gpu import INTERPRETED

DEVICE = "cpu" if INTERPRETED else "cuda"


class Moved:
    """An index or a table on the device: takes tensors from the CPU and gives them back there."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.table, name)
        if not callable(found):
            return found
        return lambda *given: moved(found(*moved(given, DEVICE)), "cpu")


def moved(value: Any, device: str) -> Any:
    """The tensors in it, on a device."""
    if isinstance(value, Tensor) and value.device.type != "meta":
        return value.to(device)
    if isinstance(value, dict):
        return {name: moved(inner, device) for name, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(moved(inner, device) for inner in value)
    return value
