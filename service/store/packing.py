"""Copies from a GPU, all at once: each copy of its own would wait for the device."""

import torch
from torch import Tensor


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU; those that are there already as they are."""
    away = {name: tensor for name, tensor in tensors.items() if not tensor.is_cpu}
    return tensors | unpacked(packed(away).cpu(), away) if away else tensors


def packed(tensors: dict[str, Tensor]) -> Tensor:
    """The bytes of tensors of one device, uint8; those of wide numbers come first."""
    flat = [
        tensors[name].contiguous().view(-1).view(torch.uint8) for name in _widest_first(tensors)
    ]
    return torch.cat(flat)


def unpacked(packed_B: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Views on packed bytes, of the types and shapes of the tensors that were packed."""
    names = _widest_first(like)
    parts = packed_B.split([like[name].nbytes for name in names])
    return {
        name: part.view(like[name].dtype).view(like[name].shape)
        for name, part in zip(names, parts, strict=True)
    }


def _widest_first(tensors: dict[str, Tensor]) -> list[str]:
    """So that all numbers lie at a multiple of their size."""
    return sorted(tensors, key=lambda name: -tensors[name].itemsize)
