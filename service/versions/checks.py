"""Checks of tensors that were read.

They are numpy's: on a machine whose cores are all busy torch's threads wait for each other, and
fifty thousand keys took 300 ms to sort instead of 1.
"""

import numpy as np
import torch
from torch import Tensor

from service.actions import RESERVED_KEY


def expect(name: str, tensor: Tensor, dtype: torch.dtype, shape: list[int]) -> None:
    """Raise ValueError for another type or shape."""
    if tensor.dtype != dtype or list(tensor.shape) != shape:
        found = f"{tensor.dtype} {list(tensor.shape)}"
        raise ValueError(f"{name} is {found} where {dtype} {shape} is expected")


def expect_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError for NaN or infinite values of a type that numpy has."""
    if not np.isfinite(tensor.numpy()).all():
        raise ValueError(f"{name} has NaN or infinite values")


def expect_distinct(name: str, keys_N: Tensor) -> None:
    """Raise ValueError for keys that repeat."""
    ordered = np.sort(keys_N.numpy())
    if (ordered[1:] == ordered[:-1]).any():
        raise ValueError(f"{name} repeat: two rows would share an id")


def expect_removed(keys_T: Tensor) -> None:
    """Raise ValueError unless these can be the removed keys of a slot."""
    expect("removed", keys_T, torch.int64, [keys_T.numel()])
    if (keys_T.numpy() == RESERVED_KEY).any():
        raise ValueError("the unknown row is among the removed keys")
    expect_distinct("removed keys", keys_T)
