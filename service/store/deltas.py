"""What a version of a table adds to its parent, and the state that comes of both.

A delta's tensors, all on the CPU. M rows have changed, the unknown row always first; T keys were
counted or dropped while their ids waited:

- `changed.rows` [M] ascending, `changed.keys` [M], `changed.columns.NAME` [M, ...]
- `removed.keys` [X] ascending: keys that have lost the row that they had in the parent. `folded`
  does without; it is for whoever keeps something else by key
- `end`: rows by now, those that are free included
- `free.kept`, `free.tail` [F]: the free stack is that of the parent up to so many entries, and then
  the tail; entries count rows from 0, without the unknown row
- `touched.keys` [T] ascending, `touched.current` and `touched.older` [T]: their counts in both
  generations, 0 for none. Others moved on by `touched.rotations` generations, 2 standing for more.
  Without ids that wait, none of the four
- everything else: what `state()` holds by that name
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from kernels.key_index import RESERVED_KEY
from kernels.rows.columns import EMPTY
from service.store.changes import Changes
from service.store.packing import on_cpu
from service.store.waiting import folded_waiting

_COLUMN = "changed.columns."
_FOLDED = ("changed.", "removed.", "free.", "touched.", "end")


@dataclass(frozen=True)
class TableDelta:
    """Copies of what has changed, on the CPU: `tensors` as a checkpoint holds it, `columns` of
    `changes.rows_M` by name (the same memory), marks apart."""

    changes: Changes
    tensors: dict[str, Tensor]
    columns: dict[str, Tensor]

    @classmethod
    def of(cls, changes: Changes, tensors: dict[str, Tensor]) -> Self:
        """From the tensors of a delta, on any device."""
        here = on_cpu({**tensors, "new": changes.new_M})
        new_M = here.pop("new")
        changes = changes._replace(
            rows_M=here["changed.rows"],
            keys_M=here["changed.keys"],
            removed_keys_T=here["removed.keys"],
            new_M=new_M,
        )
        return cls(changes, here, _columns(here))


def folded(state: Mapping[str, Tensor], *deltas: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a table when the last of the deltas was cut, from that before the first; from {}
    if that was the first cut, or a whole one. Bit-equal to what `state()` returned then.

    Arrays of `state` are overwritten, and reused where they do not grow. They grow once for all.
    """
    end = int(deltas[-1]["end"]) if deltas else 0
    for delta in deltas:
        state = _after(state, delta, end)
    return dict(state)


def _after(state: Mapping[str, Tensor], delta: Mapping[str, Tensor], end: int) -> dict[str, Tensor]:
    """The state after one delta, with rows up to `end`, which later ones may need."""
    rows_M = delta["changed.rows"]
    free = torch.cat([_kept(state, delta), delta["free.tail"]])
    keys_R = _grown(state.get("index.keys"), delta["changed.keys"], end - 1)
    # Rows that are new or were freed are in the tail, or have changed: a key has got them.
    freed = delta["free.tail"]
    keys_R[freed] = RESERVED_KEY
    keys_R[rows_M[1:] - 1] = delta["changed.keys"][1:]
    after = {"index.keys": keys_R, "index.free": free}
    for name, column in _columns(delta).items():
        grown = _grown(state.get(f"rows.{name}"), column, end)
        grown[freed + 1] = EMPTY[name]
        grown[rows_M] = column
        after[f"rows.{name}"] = grown
    if "touched.keys" in delta:
        after |= folded_waiting(state, delta)
    return after | {n: tensor for n, tensor in delta.items() if not n.startswith(_FOLDED)}


def _columns(delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(_COLUMN): t for n, t in delta.items() if n.startswith(_COLUMN)}


def _kept(state: Mapping[str, Tensor], delta: Mapping[str, Tensor]) -> Tensor:
    """The part of the free stack that is as it was."""
    return state.get("index.free", delta["free.tail"][:0])[: int(delta["free.kept"])]


def _grown(old_R: Tensor | None, like_M: Tensor, rows: int) -> Tensor:
    """The old rows and behind them any; the old array where there are enough."""
    if old_R is not None and len(old_R) >= rows:
        return old_R
    grown_R = like_M.new_empty(rows, *like_M.shape[1:])
    if old_R is not None:
        grown_R[: len(old_R)] = old_R
    return grown_R
