"""The state as it was at a block boundary, copied while training goes on."""

from typing import Any

import numpy as np
import torch

from kernels.key_index import RESERVED_KEY
from service.actions import Id
from service.model.network import item_prior
from service.model.ranker import ITEM_SLOT, PRIOR
from service.versions import SlotRows, Snapshot
from trainer.popularity import Popularity
from trainer.state import State, Tensors, named

SLICE_ROWS = 16_384
"""Rows copied between two blocks: a few milliseconds."""


class StateCopy:
    """Small parts are copied at once, the item table a slice at a time.

    `tensors` and `snapshot` may be called in another thread once `finished`.
    """

    def __init__(self, state: State) -> None:
        self._parts = state.small_parts()
        self._items = state.items.save()
        self._id_of = state.ids.copy()
        self._half_lives_seconds = state.learner.network.settings.priors

    @property
    def finished(self) -> bool:
        """Whether everything was copied."""
        return self._items.finished

    def advance(self) -> None:
        """Copy the next slice."""
        self._items.step(SLICE_ROWS)

    def finish(self) -> None:
        """Copy what is left at once."""
        self._items.finish()

    def tensors(self) -> Tensors:
        """Everything but the events of histories, by name: what `State.load` takes."""
        return named({**self._parts, "items": self._items.state(), "ids": self._id_of.state()})

    def snapshot(self, number: int, watermark_ms: int, described: dict[str, Any]) -> Snapshot:
        """The servers' half in full precision; item priors as of a time."""
        items, weights = self._items.state(), self._parts["network"]
        keys_R = items["index.keys"]
        live = np.flatnonzero(keys_R.numpy() != RESERVED_KEY)
        rows = torch.from_numpy(np.concatenate([np.zeros(1, np.int64), live + 1]))
        keys = torch.cat([torch.tensor([RESERVED_KEY]), keys_R[live]])
        counts = self._popularity().counts(rows, watermark_ms)
        slot = SlotRows(
            keys,
            items["rows.vectors"].index_select(0, rows),
            {PRIOR: item_prior(counts, weights["prior"])},
            ["", *(self._original(key) for key in keys[1:].tolist())],
        )
        return Snapshot(number, described, dict(weights), {ITEM_SLOT: slot})

    def _popularity(self) -> Popularity:
        popularity = Popularity(self._half_lives_seconds)
        popularity.load(self._parts["popularity"])
        return popularity

    def _original(self, key: int) -> Id:
        owner = self._id_of.get(key)
        return key if owner is None else owner


def snapshot_of(
    state: State, number: int, watermark_ms: int, described: dict[str, Any]
) -> Snapshot:
    """The servers' half of the state as it is now, in full precision."""
    copy = StateCopy(state)
    copy.finish()
    return copy.snapshot(number, watermark_ms, described)
