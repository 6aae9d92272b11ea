"""Whatever is read before it was written shows: outputs and scratch start as NaN, or as the largest
integer."""

from typing import Any

import torch
from torch import Tensor


def poison_empty_memory(monkeypatch: Any) -> None:
    """For as long as the test lasts."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
        make = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, make=make, **k: _poisoned(make(*a, **k)))


def _poisoned(tensor: Tensor) -> Tensor:
    largest = torch.nan if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max
    return tensor.fill_(largest)
