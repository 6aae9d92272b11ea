"""How a batch gets to where model and item table live.

Histories, ids, the joiner and everything that reads the stream stay on the CPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


def placed(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """The array as a tensor on the device; on the CPU it shares the array's memory."""
    return moved(torch.from_numpy(array), device)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device: itself on the CPU, else a copy from pinned memory, which nothing
    waits for."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def sent(value: T, device: torch.device) -> T:
    """The value, a dataclass of tensors or a list of them, with its tensors on the device: on a GPU
    one copy for each type of number."""
    if device.type == "cpu":
        return value
    return repacked(value, lambda packed: moved(packed, device))


def distinct(rows_N: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows, ascending, and how often each occurs. On a GPU the host waits for how many
    they are."""
    if not rows_N.is_cpu:
        found: tuple[Tensor, Tensor] = torch.unique(rows_N, return_counts=True)
        return found
    # Told to count, numpy sorts, which is several times as fast as what it or torch do else.
    rows_U, times_U = np.unique(rows_N.numpy(), return_counts=True)
    return torch.from_numpy(rows_U), torch.from_numpy(times_U)


def repacked(value: T, send: Callable[[Tensor], Tensor]) -> T:
    """The value with every tensor replaced by its part of what `send` makes of all of a type,
    end to end. A tensor that occurs twice is sent once."""
    tensors = {id(tensor): tensor for tensor in _tensors(value)}
    parts: dict[int, Tensor] = {}
    for kind in {tensor.dtype for tensor in tensors.values()}:
        of_kind = {key: tensor for key, tensor in tensors.items() if tensor.dtype == kind}
        padded = {key: _padded(tensor.flatten()) for key, tensor in of_kind.items()}
        packed = send(torch.cat(list(padded.values())))
        pieces = packed.split([len(tensor) for tensor in padded.values()])
        for (key, tensor), piece in zip(of_kind.items(), pieces, strict=True):
            parts[key] = piece[: tensor.numel()].view(tensor.shape)
    replaced: T = _replaced(value, parts)
    return replaced


def _padded(flat_N: Tensor) -> Tensor:
    """Up to a whole number of 16 bytes: Triton compiles a kernel anew for pointers that are not."""
    return torch.nn.functional.pad(flat_N, (0, -len(flat_N) % (16 // flat_N.element_size())))


def _tensors(value: Any) -> Sequence[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in _parts(value).values() for tensor in _tensors(part)]


def _replaced(value: Any, parts: dict[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return parts[id(value)]
    changed = {name: _replaced(part, parts) for name, part in _parts(value).items()}
    return list(changed.values()) if isinstance(value, list) else replace(value, **changed)


def _parts(value: Any) -> dict[Any, Any]:
    if isinstance(value, list):
        return dict(enumerate(value))
    assert is_dataclass(value)
    return {field.name: getattr(value, field.name) for field in fields(value)}
