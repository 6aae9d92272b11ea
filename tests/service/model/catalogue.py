"""Items that come, change, go and return, as a trainer publishes them: bases and deltas."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.actions import RESERVED_KEY, Id, key_of
from service.model.prior import COUNTS, COUNTS_ORIGIN
from service.model.ranker import ITEM_SLOT
from service.versions import RowIds, SlotRows, Snapshot

START_MS = 1_732_096_800_000
VERSION_MS = 2_000


@dataclass(frozen=True)
class Item:
    """What a server must hold of one item; the vector as its codes have it."""

    id: Id
    vector_D: Tensor
    counts_P: Tensor


@dataclass
class Catalogue:
    """The truth about all items, and the version that it stands for."""

    dim: int
    half_lives: int
    described: dict[str, Any]
    dense: dict[str, Tensor]
    make: np.random.Generator
    number: int = 0
    items: dict[int, Item] = field(default_factory=dict)
    gone: list[Id] = field(default_factory=list)
    made: int = 0

    @property
    def model(self) -> dict[str, Any]:
        return self.described | {COUNTS_ORIGIN: START_MS}

    @property
    def at_ms(self) -> int:
        return START_MS + VERSION_MS * self.number

    def base(self, items: int, precision: str = "int8") -> Snapshot:
        """Version 1 more than the last, of new items alone."""
        self.number += 1
        self.items.clear()
        rows = self._touched([self._new_id() for _ in range(items)], precision)
        return Snapshot(self.number, self.model, self.dense, {ITEM_SLOT: rows}, at_ms=self.at_ms)

    def delta(
        self, touched: int = 8, added: int = 3, removed: int = 3, precision: str = "int8",
        dense: dict[str, Tensor] | None = None,
    ) -> Snapshot:  # fmt: skip
        """The next version: some items change, some go, some are new or return. One that goes may
        return at once."""
        parent, self.number = self.number, self.number + 1
        leaving = self._some(list(self.items), removed)
        left = [self.items.pop(key).id for key in leaving]
        returning = self._some(left, 1) + self._some(self.gone, 1) + [
            self._new_id() for _ in range(added)
        ]  # fmt: skip
        changed = [self.items[key].id for key in self._some(list(self.items), touched)]
        self.gone = [one for one in [*self.gone, *left] if one not in returning]
        rows = self._touched([*changed, *dict.fromkeys(returning)], precision)
        self.dense = self.dense | (dense or {})
        return Snapshot(
            self.number, self.model, dense or {}, {ITEM_SLOT: rows}, parent,
            {ITEM_SLOT: torch.tensor(leaving, dtype=torch.int64)}, self.at_ms,
        )  # fmt: skip

    def whole(self) -> Snapshot:
        """The truth in full precision, its rows in another order than any server has them."""
        keys = self._some([key for key in self.items if key != RESERVED_KEY], len(self.items))
        rows = [RESERVED_KEY, *keys]
        held = [self.items[key] for key in rows]
        slot = SlotRows(
            torch.tensor(rows), torch.stack([item.vector_D for item in held]),
            {COUNTS: torch.stack([item.counts_P for item in held])},
            RowIds.from_list([item.id for item in held]),
        )  # fmt: skip
        return Snapshot(self.number, self.model, self.dense, {ITEM_SLOT: slot}, at_ms=self.at_ms)

    def _touched(self, ids: list[Id], precision: str) -> SlotRows:
        keys = [RESERVED_KEY, *map(key_of, ids)]
        random = torch.Generator().manual_seed(int(self.make.integers(2**60)))
        slot = SlotRows(
            torch.tensor(keys), torch.randn(len(keys), self.dim, generator=random),
            {COUNTS: torch.rand(len(keys), self.half_lives, generator=random) * 9},
            RowIds.from_list(["", *ids]),
        )  # fmt: skip
        exact = Snapshot(self.number, self.model, {}, {ITEM_SLOT: slot})
        slot = exact.quantized({f"slots/{ITEM_SLOT}": precision}).slots[ITEM_SLOT]
        vectors, counts = slot.gather(torch.arange(len(keys))), slot.extra[COUNTS]
        for key, one, vector_D, counts_P in zip(keys, ["", *ids], vectors, counts, strict=True):
            self.items[key] = Item(one, vector_D, counts_P)
        return slot

    def _new_id(self) -> Id:
        self.made += 1
        return self.made if self.made % 3 == 0 else f"item-{'é' * (self.made % 7)}{self.made}"

    def _some(self, among: list[Any], count: int) -> list[Any]:
        among = [one for one in among if one != RESERVED_KEY]
        chosen = self.make.permutation(len(among))[:count]
        return [among[place] for place in chosen.tolist()]
