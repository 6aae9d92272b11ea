"""Which categories every item has, as codes: the trainer's memory of the topic `items`.

Codes are given in the order in which categories come; beyond the model's limit all share one.
An item costs 16 bytes and its place in an index; a checkpoint's delta holds those that changed.

Shapes: N items asked for, M changed ones, K places for codes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.key_index import RESERVED_KEY, key_index
from kernels.reserved import Reserved
from service.histories.rings import Longs
from service.model.categories import FIRST, OTHER, SLOTS, Categories

Tensors = dict[str, Tensor]
Shorts = npt.NDArray[np.int16]


class ItemCategories:
    """Codes by item key, for a model's `categories` (None: no category speaks, nothing is kept)."""

    def __init__(self, categories: Categories | None) -> None:
        self._categories = categories
        self.others = 0
        """How often a category of an item was one of those beyond the limit."""
        self._code_of: dict[int, int] = {}
        self._changed: set[int] = set()
        self._clear()

    def __len__(self) -> int:
        """Items with a category."""
        return len(self._index)

    @property
    def known(self) -> bool:
        """Whether any category was ever named: until then nothing is computed."""
        return bool(self._code_of)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that grows with items."""
        return self._index.nbytes + self._codes.nbytes

    def put(self, categories_of: Mapping[int, Sequence[int]]) -> Longs:
        """Take in what a block says of items (`service.items.category_keys`); the keys whose codes
        are not what they were, ascending."""
        if self._categories is None or not categories_of:
            return np.zeros(0, np.int64)
        codes_MK = np.zeros((len(categories_of), SLOTS), np.int16)
        for place, keys in enumerate(categories_of.values()):
            codes = list(dict.fromkeys(map(self._code, dict.fromkeys(keys))))[:SLOTS]
            codes_MK[place, : len(codes)] = codes
        keys_M = np.array(list(categories_of), np.int64)
        order = np.argsort(keys_M)
        keys_M, codes_MK = keys_M[order], codes_MK[order]
        changed_M = (self._of(keys_M) != codes_MK).any(1)
        self._write(keys_M[changed_M], codes_MK[changed_M])
        self._changed.update(keys_M[changed_M].tolist())
        changed: Longs = keys_M[changed_M]
        return changed

    def codes(self, keys_N: Tensor) -> Tensor:
        """Codes [N, K] of items, int32, on the CPU: K is 0 while no category is known, and as many
        as one of these items has, at least 1, from then on."""
        if not self.known:
            return torch.zeros(len(keys_N), 0, dtype=torch.int32)
        codes_NK = self._of(keys_N.cpu().numpy())
        used = np.flatnonzero(codes_NK.any(0))
        return torch.from_numpy(codes_NK[:, : used[-1] + 1 if len(used) else 1].astype(np.int32))

    def cut(self, whole: bool = False) -> Tensors:
        """What a checkpoint's delta holds: the items that changed since the last cut, or all."""
        if whole:
            self._changed.update(self._keys().tolist())
        if not self.known:
            return {}
        keys_M = np.array(sorted(self._changed), np.int64)
        self._changed.clear()
        return {
            "changed.keys": torch.from_numpy(keys_M),
            "changed.codes": torch.from_numpy(self._of(keys_M)),
            "others": torch.tensor(self.others),
        }

    def put_back(self, delta: Tensors) -> None:
        """The version made of this delta failed: what it holds counts as changed again."""
        if delta:
            self._changed.update(delta["changed.keys"].tolist())

    def state(self) -> Tensors:
        """Everything that later results depend on, but for the model's own part."""
        if not self.known:
            return {}
        keys_M = np.sort(self._keys())
        return {
            "keys": torch.from_numpy(keys_M),
            "codes": torch.from_numpy(self._of(keys_M)),
            "others": torch.tensor(self.others),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Become what returned `state`; the model was loaded before."""
        self._clear()
        if state:
            self._write(state["keys"].numpy(), state["codes"].numpy())
            self.others = int(state["others"])

    def _clear(self) -> None:
        self._index, self._codes = key_index(), Reserved(np.int16, SLOTS)
        self._changed, self._code_of = set(), {}
        if self._categories is not None:
            keys = self._categories.keys.tolist()
            self._code_of = {key: c for c, key in enumerate(keys) if key != RESERVED_KEY}

    def _code(self, key: int) -> int:
        categories = self._categories
        assert categories is not None
        if key in self._code_of:
            return self._code_of[key]
        code = FIRST + len(self._code_of)
        if code >= len(categories.keys):
            self.others += 1
            return OTHER
        self._code_of[key] = code
        categories.keys[code] = key
        return code

    def _keys(self) -> Longs:
        keys_R: Longs = self._index.keys().numpy()
        live: Longs = keys_R[keys_R != RESERVED_KEY]
        return live

    def _of(self, keys_N: Longs) -> Shorts:
        """All places of items' codes, [N, SLOTS]; zeros for items without a category."""
        codes_NK = np.zeros((len(keys_N), SLOTS), np.int16)
        named_N = np.flatnonzero(keys_N != RESERVED_KEY)
        rows_N = self._index.lookup(torch.from_numpy(keys_N[named_N])).numpy()
        found_N = rows_N >= 0
        codes_NK[named_N[found_N]] = self._codes.flat.reshape(-1, SLOTS)[rows_N[found_N]]
        return codes_NK

    def _write(self, keys_M: Longs, codes_MK: Shorts) -> None:
        has_M = codes_MK.any(1)
        self._index.remove(torch.from_numpy(keys_M[~has_M]))
        rows_M = self._index.insert(torch.from_numpy(keys_M[has_M]))[0].numpy()
        codes_RK = self._codes.extend(self._index.rows_end).reshape(-1, SLOTS)
        codes_RK[rows_M] = codes_MK[has_M]


def folded(state: Mapping[str, Tensor], deltas: Sequence[Mapping[str, Tensor]]) -> Tensors:
    """The state after some `cut`s: of each item what the last one says, without those that have no
    category any more."""
    cuts = [delta for delta in deltas if delta]
    if not cuts:
        return dict(state)
    empty = {"keys": torch.zeros(0).long(), "codes": torch.zeros(0, SLOTS).short()}
    state = state or empty
    keys_N = torch.cat([state["keys"], *(cut["changed.keys"] for cut in cuts)]).numpy()
    codes_NK = torch.cat([state["codes"], *(cut["changed.codes"] for cut in cuts)]).numpy()
    keys_M, first_M = np.unique(keys_N[::-1], return_index=True)
    codes_MK = codes_NK[::-1][first_M]
    has_M = codes_MK.any(1)
    return {
        "keys": torch.from_numpy(keys_M[has_M]),
        "codes": torch.from_numpy(codes_MK[has_M]),
        "others": cuts[-1]["others"],
    }
