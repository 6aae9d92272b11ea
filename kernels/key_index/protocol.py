"""What every key index promises, whatever its backend."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

RESERVED_KEY = -(2**63)
"""The key that marks empty places; it is never stored, and asking for it is a ValueError."""


class KeyIndex(Protocol):
    """A map from distinct int64 keys to dense row numbers 0, 1, 2, ...

    Row numbers are a function of the sequence of inserted and removed keys alone: the same for
    every backend and however the sequence is cut into batches (a batch acts as its keys would one
    by one). A new key takes the row freed last; while none is free, the next one at the end.
    One owner at a time: nothing may read while another thread mutates. Tensors, those of `state`
    too, are on the index's device.
    """

    def lookup(self, keys_N: Tensor) -> Tensor:
        """Row of each key, int64 [N]; -1 where the key is absent."""
        ...

    def insert(self, keys_N: Tensor) -> tuple[Tensor, Tensor]:
        """Row of each key, and True where this occurrence made it (both [N]); all or, on a
        ValueError for the reserved key, nothing."""
        ...

    def remove(self, keys_N: Tensor) -> Tensor:
        """Free the keys' rows in batch order; the row each had, -1 where it was absent."""
        ...

    def key_at(self, rows_N: Tensor) -> Tensor:
        """Key of each of the rows, RESERVED_KEY where free; IndexError for one past the end."""
        ...

    def keys(self) -> Tensor:
        """Key of each row up to `rows_end`, RESERVED_KEY where the row is free. On CPU a view,
        to be read only; on a GPU a copy."""
        ...

    def free(self) -> Tensor:
        """Rows that are free, last freed last. On CPU a view, to be read only and true until keys
        come or go; on a GPU a copy."""
        ...

    def __len__(self) -> int:
        """Keys present."""
        ...

    @property
    def rows_end(self) -> int:
        """One more than the largest row number ever given out."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use, empty places and whole pages included."""
        ...

    def state(self) -> dict[str, Tensor]:
        """`keys` by row and the `free` stack, last freed last: all that results depend on."""
        ...

    def load(self, state: dict[str, Tensor]) -> None:
        """Become the index that returned `state`, whatever its backend and device."""
        ...


def key_array(keys_N: Tensor) -> npt.NDArray[np.int64]:
    """The keys as a contiguous numpy array; TypeError unless they are int64 on CPU in one axis."""
    return _int64_array("keys", keys_N)


def reserved_key_error(position: int) -> ValueError:
    """The error for the reserved key at a position of a batch."""
    return ValueError(f"key {position} of the batch is the reserved key -2^63; no id maps to it")


def row_array(rows_N: Tensor) -> npt.NDArray[np.int64]:
    """The rows as a contiguous numpy array; TypeError unless they are int64 on CPU in one axis."""
    return _int64_array("rows", rows_N)


def row_error(row: int, rows_end: int) -> IndexError:
    """The error for a row that the index never gave out."""
    return IndexError(f"row {row} is none of the index's rows 0..{rows_end - 1}")


def _int64_array(what: str, tensor_N: Tensor) -> npt.NDArray[np.int64]:
    if tensor_N.dtype != torch.int64 or tensor_N.dim() != 1 or tensor_N.device.type != "cpu":
        raise TypeError(
            f"{what} are {tensor_N.dtype} {list(tensor_N.shape)} on {tensor_N.device}; "
            "pass a one-dimensional int64 tensor on CPU"
        )
    array: npt.NDArray[np.int64] = tensor_N.contiguous().numpy()
    return array
