"""Random bits that are a function of their words alone, on every device."""

import torch
from torch import Tensor

MASK = 2**64 - 1
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
"""The finalizer's factors as signed numbers."""


def mixed(words_N: Tensor) -> Tensor:
    """`kernels.mixing.mix64` of int64 words, whose bits count."""
    words_N = (words_N ^ _shifted(words_N, 30)) * _FIRST
    words_N = (words_N ^ _shifted(words_N, 27)) * _SECOND
    return words_N ^ _shifted(words_N, 31)


def word(value: int) -> int:
    """The lowest 64 bits of an integer as a signed one, as tensors have it."""
    return (value + 2**63 & MASK) - 2**63


def below(limit: int, count: int, *seed: int, device: torch.device) -> Tensor:
    """`count` numbers 0 .. limit - 1, int64."""
    start = torch.zeros(1, dtype=torch.int64, device=device)
    for part in seed:
        start = mixed(start ^ word(part))
    numbers_N = torch.arange(1, count + 1, device=device)
    return _shifted(mixed(start + mixed(numbers_N)), 1) % limit


def _shifted(words_N: Tensor, bits: int) -> Tensor:
    """Shifted right with zeros coming in."""
    return (words_N >> bits) & ((1 << 64 - bits) - 1)
