"""Impressions as examples: a target row for each shown item, labelled with what followed.

Shapes: B impressions, E packed history events, R shown items, A action types.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kernels.attention import Events as SeenEvents
from kernels.attention import Rows
from service.histories.local import LocalHistories
from service.histories.rings import Longs
from service.model.hstu import window_start
from trainer.examples import Seen, asking, ends_of, tensor_of

if TYPE_CHECKING:
    from trainer.joiner import Open


@dataclass(frozen=True)
class TargetBatch:
    """Impressions with what followed: one target row per shown item."""

    seen: Seen
    targets: Rows
    item_R: Tensor
    """int64 keys of the shown items."""
    label_RA: Tensor
    """float32, 1 where the action followed."""


def target_batch(
    closed: "Sequence[Open]", histories: LocalHistories, window: int, action_types: int
) -> TargetBatch | None:
    """Target rows of closed impressions, each seeing the history that its scoring saw.

    None if no impression can be used: what it saw has left the user's ring or was forgotten.
    """
    parts = [part for entry in closed if (part := _target(entry, histories, window))]
    if not parts:
        return None
    seen, limit_B, shown = zip(*parts, strict=True)
    shown_B = np.array([len(entry.items) for entry in shown])
    label_RA = np.zeros((int(shown_B.sum()), action_types), np.float32)
    acted_R = [entry.acted.get(item, 0) for entry in shown for item in entry.items]
    for a in range(action_types):
        label_RA[:, a] = [acted >> a & 1 for acted in acted_R]
    item_E, action_E, at_ms_E, before_ms_E = (
        np.concatenate(column) for column in zip(*seen, strict=True)
    )
    at_ms_B = np.array([entry.at_ms for entry in shown])
    return TargetBatch(
        seen=Seen(
            tensor_of(item_E), tensor_of(action_E), tensor_of(before_ms_E),
            SeenEvents(tensor_of(ends_of(np.array(limit_B))), tensor_of(at_ms_E)),
        ),
        targets=asking(
            ends_of(shown_B), np.repeat(np.array(limit_B), shown_B), np.repeat(at_ms_B, shown_B)
        ),
        item_R=tensor_of(np.array([item for entry in shown for item in entry.items], np.int64)),
        label_RA=torch.from_numpy(label_RA),
    )  # fmt: skip


_Columns = tuple[Longs, Longs, Longs, Longs]


def _target(
    entry: "Open", histories: LocalHistories, window: int
) -> "tuple[_Columns, int, Open] | None":
    """What one impression's scoring saw: item, action, time and time before, of each event."""
    history = histories.read(np.array([entry.user]), histories.settings.capacity)
    count, held = int(history.count_B[0]), len(history.item_T)
    saw = entry.history
    if saw is None:
        saw = count - int((history.at_ms_T >= entry.at_ms).sum())
    start = window_start(saw - 1, window) if saw else 0
    first, last = start - (count - held), saw - (count - held)
    if first < 0 or last > held:
        return None
    if last > first and history.at_ms_T[first] > entry.at_ms:
        return None  # the history was restarted since: these are not the events it saw
    before_ms_E = np.full(last - first, -1, np.int64)
    before_ms_E[max(0, 1 - first) :] = history.at_ms_T[max(first - 1, 0) : max(last - 1, 0)]
    seen = slice(first, last)
    columns = (history.item_T[seen], history.action_T[seen], history.at_ms_T[seen], before_ms_E)
    return columns, last - first, entry
