"""The item rows that a network on a GPU reads: a copy of the codes there, decoded where they are
gathered (`kernels.row_codes`).

Keys, priors, lengths and the search of all items stay on the CPU, with the rows that they belong
to (`service.model.items`); this follows them. One thread owns both.

Shapes: C rows asked for, M changed, D width.
"""

import torch
from torch import Tensor

from kernels.row_codes import Codes, gather_decode
from service.model.categories import Categories
from service.model.items import ItemRows

ROOM = 1.25
"""Rows that are allocated for each that there is: a copy that grows beyond them is made anew."""


class PlacedRows:
    """Vectors of items on a device."""

    def __init__(self, items: ItemRows, device: torch.device) -> None:
        self._items, self._device = items, device
        self._rows = self._copied(items.codes())

    def gather(self, rows_C: Tensor, categories: Categories | None) -> Tensor:
        """As `ItemRows.gather`, [C, D] on the device; categories: the items' own, there."""
        own_CD = gather_decode(self._rows, rows_C.to(self._device), "triton")
        codes_CK = self._items.categories_of(rows_C)
        if codes_CK is None or categories is None:
            return own_CD
        vectors_CD: Tensor = categories(own_CD, codes_CK.to(self._device))
        return vectors_CD

    def follow(self, rows_M: Tensor) -> None:
        """Take over what the items have in these rows since their last change."""
        codes = self._items.codes()
        columns = list(zip(_columns(self._rows), _columns(codes), strict=False))
        if type(codes) is not type(self._rows) or not all(_fits(*each) for each in columns):
            self._rows = self._copied(codes)
            return
        for mine, theirs in columns:
            mine[rows_M.to(self._device)] = theirs[rows_M].to(self._device)

    def _copied(self, codes: Codes | Tensor) -> Codes | Tensor:
        columns = []
        for theirs in _columns(codes):
            shape = (int(len(theirs) * ROOM), *theirs.shape[1:])
            columns.append(torch.zeros(shape, dtype=theirs.dtype, device=self._device))
            columns[-1][: len(theirs)] = theirs.to(self._device)
        if isinstance(codes, Tensor):
            return columns[0]
        codes_RB, scale_R, bias_R = columns
        return Codes(codes_RB, scale_R, bias_R, codes.bits)


def _columns(codes: Codes | Tensor) -> list[Tensor]:
    return [codes] if isinstance(codes, Tensor) else [codes.codes_RB, codes.scale_R, codes.bias_R]


def _fits(mine: Tensor, theirs: Tensor) -> bool:
    """Whether a column is of the same kind, and no longer."""
    same = (mine.dtype, mine.shape[1:]) == (theirs.dtype, theirs.shape[1:])
    return same and len(theirs) <= len(mine)
