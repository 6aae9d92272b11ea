"""Which of the ids that wait have changed since a version was cut."""

import torch
from torch import Tensor

_FEW = 4096
"""Keys that are noted however few ids wait."""


class Touches:
    """Keys counted or dropped since then, and how often the generations have rotated.

    Notes no more keys than ids wait, or a few: beyond that, all that wait are written.
    """

    def __init__(self, no_keys: Tensor) -> None:
        self._no_keys = no_keys
        self.start()

    def start(self) -> None:
        """A version was cut: nothing has changed."""
        self._batches, self._length = [self._no_keys], 0
        self.rotations, self.all = 0, False
        """`all`: the next version must hold everything."""

    def lose(self) -> None:
        """That version is of no use."""
        self._batches, self._length, self.all = [self._no_keys], 0, True

    def add(self, keys_A: Tensor, waiting: int) -> None:
        """Note keys, repeats included, after which so many ids wait."""
        if self.all:
            return
        self._batches.append(keys_A)
        self._length += len(keys_A)
        if self._length > max(waiting, _FEW):
            self.lose()

    def keys(self) -> Tensor:
        """Distinct keys, ascending."""
        keys_T: Tensor = torch.cat(self._batches).unique()
        return keys_T

    @property
    def nbytes(self) -> int:
        """Bytes of the keys."""
        return 8 * self._length
