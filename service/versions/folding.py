"""Folds a chain of snapshots: rows by key, the last one to write a row wins.

No Python runs per row: the keys of deltas become numbers in the order of their first appearance (a
key index), the base's rows are looked up among them, and every column is copied once.

R rows of the base, M of one delta, N of all deltas one after another; U numbers; S rows of the
result: those of the base that are left in the base's order, then new ones as they first appeared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.key_index import key_index
from service.errors import VersionError
from service.versions.dense import values_of
from service.versions.ids import RowIds
from service.versions.rows import SlotRows

if TYPE_CHECKING:
    from service.versions.snapshot import Snapshot

Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def folded(links: Sequence[Snapshot], names: Sequence[str]) -> Snapshot:
    """A base and its deltas, whose order was checked, as one base of the last one's number.

    Raises VersionError with the name of a link that does not fit the base.
    """
    base, last = links[0], links[-1]
    if len(links) == 1:
        return base
    for name, link in zip(names[1:], links[1:], strict=True):
        if problem := _misfit(base, link):
            raise VersionError(f"{name} does not fit the base of its chain: {problem}")
    slots = {slot: _folded_rows(links, slot) for slot in base.slots}
    dense = next(link.dense for link in reversed(links) if link.dense or link is base)
    return replace(last, parent=None, removed={}, dense=dense, slots=slots)


def _misfit(base: Snapshot, delta: Snapshot) -> str | None:
    """What a delta has otherwise than its base, where they must be alike."""
    if set(delta.slots) != set(base.slots):
        return f"it has the slots {sorted(delta.slots)}, the base {sorted(base.slots)}"
    for slot, rows in delta.slots.items():
        if (theirs := _layout(rows)) != (ours := _layout(base.slots[slot])):
            return f"slot {slot!r} is {theirs}, in the base {ours}"
    if delta.dense and (theirs := _shapes(delta)) != (ours := _shapes(base)):
        return f"its dense weights are {theirs}, those of the base {ours}"
    return None


def _shapes(snapshot: Snapshot) -> dict[str, object]:
    return {name: list(values_of(weight).shape) for name, weight in snapshot.dense.items()}


def _layout(rows: SlotRows) -> dict[str, object]:
    extra = {name: list(tensor.shape[1:]) for name, tensor in rows.extra.items()}
    shape = {"width": rows.width, "precision": rows.precision, "ids": rows.ids is not None}
    return shape | {f"extra {name}": extra[name] for name in sorted(extra)}


def _folded_rows(links: Sequence[Snapshot], slot: str) -> SlotRows:
    parts = _alike([link.slots[slot] for link in links])
    none_T = torch.empty(0, dtype=torch.int64)
    removed = [link.removed.get(slot, none_T) for link in links]
    plan = _Plan.of([rows.keys_R for rows in parts], removed)
    columns = [rows.columns() for rows in parts]
    merged = {name: plan.merged([column[name] for column in columns]) for name in columns[0]}
    rows = SlotRows.from_tensors(merged)
    ids = [rows.ids for rows in parts if rows.ids is not None]
    return replace(rows, ids=RowIds.joined(ids).take(plan.source_S)) if ids else rows


def _alike(parts: list[SlotRows]) -> list[SlotRows]:
    """The same rows, all with as many places for categories: rows of one part may have more."""
    most = max(0 if p.categories is None else p.categories.shape[1] for p in parts)
    return [part.with_places(most) for part in parts] if most else parts


@dataclass(frozen=True, eq=False)
class _Plan:
    """Which row of which part every row of the result is."""

    kept_S: Longs | None
    """The base's rows whose keys are left, which come first; None for all."""
    writes: list[tuple[Longs, Longs]]
    """Of each delta: its rows that nobody wrote again, and where they go."""
    source_S: Tensor
    """The row of each row of the result, counted through all parts."""

    @classmethod
    def of(cls, keys: Sequence[Tensor], removed: Sequence[Tensor]) -> _Plan:
        """`keys` are each part's, the unknown row's first; `removed` go before them.

        Only the keys of deltas get numbers, from 1 on: the unknown row has 0, and so, in
        `number_R`, have the base's rows that no delta speaks of.
        """
        index, base_R, *deltas = key_index(), *keys
        numbers = [_numbers(index.insert(part_M[1:])[0]) for part_M in deltas]
        gone = [index.insert(keys_T)[0].numpy() + 1 for keys_T in removed[1:]]
        number_N = np.concatenate(numbers)
        last_U = np.full(index.rows_end + 1, -1)
        last_U[number_N] = np.arange(len(number_N))  # of equal numbers the last one is written
        ends = np.cumsum([0, *map(len, numbers)])
        gone_U = np.zeros(len(last_U), bool)
        for first, gone_T in zip(ends, gone, strict=False):
            gone_U[gone_T] |= last_U[gone_T] < first
        base_U, left_R = np.full(len(last_U), -1), np.ones(len(base_R), bool)
        number_R = _numbers(index.lookup(base_R[1:]))
        base_U[number_R[1:]] = np.arange(1, len(base_R))
        base_U[0] = 0
        left_R[base_U[gone_U & (base_U >= 0)]] = False
        return cls._placed(left_R, base_U, np.where(gone_U, -1, last_U), number_N, ends)

    @classmethod
    def _placed(
        cls, left_R: Bools, base_U: Longs, last_U: Longs, number_N: Longs, ends: Longs
    ) -> _Plan:
        """`last_U`: where each number is written last among the rows of deltas, or -1."""
        kept_S = None if left_R.all() else np.flatnonzero(left_R)
        source_S = np.arange(len(left_R)) if kept_S is None else kept_S
        place_R = left_R.cumsum() - 1
        is_new_U = (base_U < 0) & (last_U >= 0)
        place_U = np.where(is_new_U, len(source_S) + is_new_U.cumsum() - 1, place_R[base_U])
        source_S = np.concatenate([source_S, np.empty(int(is_new_U.sum()), np.int64)])
        writes = []
        for first, end in pairwise(ends):
            number_M = number_N[first:end]
            rows = np.flatnonzero(last_U[number_M] == np.arange(first, end))
            writes.append((rows, place_U[number_M[rows]]))
            source_S[writes[-1][1]] = len(left_R) + first + rows
        return cls(kept_S, writes, torch.from_numpy(source_S))

    def merged(self, columns: Sequence[Tensor]) -> Tensor:
        """One column of the result, from that of each part."""
        base_R, *deltas = (column.numpy() for column in columns)
        out_S = np.empty((len(self.source_S), *base_R.shape[1:]), base_R.dtype)
        if self.kept_S is None:
            out_S[: len(base_R)] = base_R
        else:
            kept_S = self.kept_S
            np.take(base_R, kept_S, axis=0, out=out_S[: len(kept_S)], mode="clip")
        for column_M, (rows, places) in zip(deltas, self.writes, strict=True):
            out_S[places] = column_M[rows]
        return torch.from_numpy(out_S)


def _numbers(row_M: Tensor) -> Longs:
    """Numbers of a part's rows: 0 the unknown one's, else one more than the index's row."""
    numbers: Longs = np.concatenate([np.zeros(1, np.int64), row_M.numpy() + 1])
    return numbers
