"""Sets of categories, each once: many items have the same.

Shapes: S sets, the first of them empty; K places for codes.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.key_index import RESERVED_KEY
from service.actions import key_of
from service.model.categories import NOTHING, OTHER, SLOTS, Categories

NO_CATEGORY = 0
"""The empty set."""


class CategorySets:
    """Numbers by set, in the order in which they came. None is ever forgotten."""

    def __init__(self) -> None:
        self._number: dict[tuple[str, ...], int] = {(): NO_CATEGORY}
        self._with: dict[str, list[int]] = {}
        """Sets that hold a category, by its name."""
        self._told: Categories | None = None
        self._codes_SK = np.zeros((0, SLOTS), np.int32)
        """As the model has them that asked last."""

    def __len__(self) -> int:
        return len(self._number)

    def number(self, names: tuple[str, ...]) -> int:
        """The number of a set, of names without repeats; their order counts, as the first speak in
        vectors."""
        number = self._number.get(names)
        if number is None:
            number = self._number[names] = len(self._number)
            for name in names:
                self._with.setdefault(name, []).append(number)
        return number

    def wanted(self, any_of: Sequence[str], none_of: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which sets hold any of some categories, if there are some, and none of others, [S]."""
        wanted_S = np.full(len(self), not any_of)
        for name in any_of:
            wanted_S[self._with.get(name, [])] = True
        for name in none_of:
            wanted_S[self._with.get(name, [])] = False
        return wanted_S

    def codes(self, categories: Categories | None) -> Tensor:
        """Codes [S, K] of every set, as a model has them, int32; new ones are worked out once."""
        if categories is None:
            return torch.zeros(len(self), 0, dtype=torch.int32)
        if categories is not self._told:
            self._told, self._codes_SK = categories, np.zeros((0, SLOTS), np.int32)
        if len(self._codes_SK) < len(self):
            new = islice(self._number, len(self._codes_SK), None)
            self._codes_SK = np.concatenate([self._codes_SK, _codes(list(new), categories)])
        return torch.from_numpy(self._codes_SK)


def _codes(sets: list[tuple[str, ...]], categories: Categories) -> npt.NDArray[np.int32]:
    """Codes [N, K] of some sets. What the model has not met yet says nothing, unless it can meet no
    more."""
    keys = categories.keys.tolist()
    code_of = {key: code for code, key in enumerate(keys) if key != RESERVED_KEY}
    absent = OTHER if categories.full else NOTHING
    codes_NK = np.zeros((len(sets), SLOTS), np.int32)
    for place, names in enumerate(sets):
        codes = dict.fromkeys(code_of.get(key_of(name), absent) for name in names)
        used = [code for code in codes if code != NOTHING][:SLOTS]
        codes_NK[place, : len(used)] = used
    return codes_NK
