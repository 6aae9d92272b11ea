"""Impressions as examples: a target row for each shown item, labelled with what followed.

A target sees what the scoring saw: the first `history` events of its user, or, where nobody said
how many, those before the time of showing; and no action of its own request, for a click on one
item of a list says much about its neighbours.

Shapes: B impressions, E packed history events, R target rows, A action types, P positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels.attention import Events as SeenEvents
from kernels.attention import Rows
from service.histories.leaving import Flags
from service.histories.local import Histories, LocalHistories
from service.histories.rings import Longs
from service.model.hstu import window_start
from trainer.examples import Seen, asking, ends_of, tensor_of
from trainer.positions import POSITIONS
from trainer.sampling import Sampling

if TYPE_CHECKING:
    from trainer.joining.shown import Shown

_NONE: Longs = np.zeros(0, np.int64)


@dataclass(frozen=True)
class TargetBatch:
    """Impressions with what followed: one target row per shown item that is learned.

    A row's loss for an action, at logit u, is `counted * softplus(u) - label * u`: the binary
    cross-entropy where counted is 1, nothing for a negative that is left out (0 and 0), and for a
    late positive what turns the loss of a negative into that of a positive (0 and 1).
    """

    seen: Seen
    targets: Rows
    item_R: Tensor
    """int64 keys of the shown items."""
    label_RA: Tensor
    """float32, 1 where the action followed."""
    counted_RA: Tensor
    """float32."""
    weight_RA: Tensor
    """float32: for calibration, how many shown items a label stands for: 1 where the action
    followed, 1 / keep for a negative that was kept, 0 for one left out. A late positive has 0: its
    item was heard as a negative, or others stood for it."""
    position_R: Tensor
    """int64, below POSITIONS."""
    shown_P: Tensor
    """float32: how many items were shown at each position, learned or not."""


class _Columns(NamedTuple):
    """What one impression's scoring saw."""

    item_E: Longs
    action_E: Longs
    at_ms_E: Longs
    before_ms_E: Longs


class _Part(NamedTuple):
    """One impression, its history cut to what it saw and its rows chosen."""

    entry: "Shown"
    seen: _Columns
    row_N: Longs
    """Places in the shown list that are learned."""
    label_NA: Flags
    counted_NA: Flags
    weight_NA: "np.ndarray[Any, np.dtype[np.float64]]"
    position_R: Longs
    """Of every item shown."""

    @property
    def rows(self) -> int:
        return len(self.seen.item_E) + len(self.row_N)


class Targets:
    """Makes batches of target rows."""

    def __init__(
        self, window: int, action_types: int, sampling: Sampling | None = None, row_budget: int = 0
    ) -> None:
        """row_budget: model rows in a batch, one impression at least; 0 for no end."""
        self._window, self._types = window, action_types
        self._sampling, self._row_budget = sampling or Sampling(), row_budget

    def batches(
        self, shown: "Sequence[Shown]", histories: LocalHistories
    ) -> "tuple[list[TargetBatch], list[Shown]]":
        """The impressions as batches, in their order; and those that cannot be used, because what
        they saw has left the user's ring or was forgotten."""
        parts, unusable = [], []
        for entry in shown:
            seen = _seen(entry, histories, self._window)
            if seen is None:
                unusable.append(entry)
            else:
                parts.append(self._part(entry, seen))
        return [self._batch(run) for run in self._runs(parts)], unusable

    def _part(self, entry: "Shown", seen: _Columns) -> _Part:
        item_R, action_A = np.array(entry.items, np.int64), np.arange(self._types)
        acted_R = np.array([entry.acted.get(item, 0) for item in entry.items], np.int64)
        label_RA = (acted_R[:, None] >> action_A & 1).astype(np.bool_)
        kept_R1 = self._sampling.kept(entry.key, item_R)[:, None]
        counted_RA = label_RA & ~kept_R1 if entry.late else label_RA | kept_R1
        positions = range(len(item_R)) if entry.positions is None else entry.positions
        position_R = np.array(positions, np.int64).clip(0, POSITIONS - 1)
        kept = 0.0 if entry.late else 1 / self._sampling.keep
        weight_RA = np.where(label_RA, float(not entry.late), kept * counted_RA)
        row_N = np.flatnonzero((label_RA | counted_RA).any(1))
        return _Part(
            entry, seen, row_N, label_RA[row_N], counted_RA[row_N], weight_RA[row_N], position_R
        )

    def _runs(self, parts: list[_Part]) -> Iterator[list[_Part]]:
        run: list[_Part] = []
        held = 0
        for part in parts:
            if not len(part.row_N):
                continue  # a list of which nothing was acted on or kept
            if run and self._row_budget and held + part.rows > self._row_budget:
                yield run
                run, held = [], 0
            run.append(part)
            held += part.rows
        if run:
            yield run

    def _batch(self, parts: list[_Part]) -> TargetBatch:
        limit_B = np.array([len(part.seen.item_E) for part in parts])
        rows_B = np.array([len(part.row_N) for part in parts])
        at_ms_B = np.array([part.entry.at_ms for part in parts])
        seen = _Columns(*map(np.concatenate, zip(*(part.seen for part in parts), strict=True)))
        item_R = [np.array(part.entry.items, np.int64)[part.row_N] for part in parts]
        shown = [part.position_R for part in parts if not part.entry.late]
        shown_P = np.bincount(np.concatenate([*shown, _NONE]), minlength=POSITIONS)
        return TargetBatch(
            seen=Seen(
                tensor_of(seen.item_E), tensor_of(seen.action_E), tensor_of(seen.before_ms_E),
                SeenEvents(tensor_of(ends_of(limit_B)), tensor_of(seen.at_ms_E)),
            ),
            targets=asking(
                ends_of(rows_B), np.repeat(limit_B, rows_B), np.repeat(at_ms_B, rows_B)
            ),
            item_R=tensor_of(np.concatenate(item_R)),
            label_RA=_floats(np.concatenate([part.label_NA for part in parts])),
            counted_RA=_floats(np.concatenate([part.counted_NA for part in parts])),
            weight_RA=_floats(np.concatenate([part.weight_NA for part in parts])),
            position_R=tensor_of(np.concatenate([p.position_R[p.row_N] for p in parts])),
            shown_P=_floats(shown_P),
        )  # fmt: skip


def target_batch(
    shown: "Sequence[Shown]", histories: LocalHistories, window: int, action_types: int
) -> TargetBatch | None:
    """All usable impressions in one batch, every item a row; None if there is none."""
    made, _ = Targets(window, action_types).batches(shown, histories)
    return made[0] if made else None


def _floats(array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def _seen(entry: "Shown", histories: LocalHistories, window: int) -> _Columns | None:
    """What one impression's scoring saw; None where that cannot be told any more."""
    history = histories.read(np.array([entry.user]), histories.settings.capacity)
    count, held = int(history.count_B[0]), len(history.item_T)
    gone = count - held
    past_T = history.at_ms_T < entry.at_ms
    saw = entry.history
    if saw is None:
        saw = gone + int(np.flatnonzero(past_T).max(initial=-1)) + 1
    start = window_start(saw - 1, window) if saw else 0
    first, last = start - gone, saw - gone
    if first < 0 or last > held:
        return None
    if last > first and history.at_ms_T[first] > entry.at_ms:
        return None  # the history was restarted since: these are not the events it saw
    left_T = _own(entry, history)
    if entry.history is None:
        left_T |= ~past_T
    stays_E = np.flatnonzero(~left_T[first:last]) + first
    stood_T = np.flatnonzero(~left_T[:last])
    before_ms_T = np.full(held, -1, np.int64)
    before_ms_T[stood_T[1:]] = history.at_ms_T[stood_T[:-1]]
    return _Columns(
        history.item_T[stays_E], history.action_T[stays_E], history.at_ms_T[stays_E],
        before_ms_T[stays_E],
    )  # fmt: skip


def _own(entry: "Shown", history: Histories) -> Flags:
    """Which events of a history are the impression's own actions."""
    own_T = np.zeros(len(history.item_T), np.bool_)
    for item, action, at_ms in entry.own:
        own_T |= (
            (history.item_T == item) & (history.action_T == action) & (history.at_ms_T == at_ms)
        )
    return own_T
