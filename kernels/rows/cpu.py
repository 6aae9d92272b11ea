"""Rows on CPU: each column in memory that grows without moving, work shared by a crew."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.crew import Crew
from kernels.reserved import Reserved
from kernels.rows import access, groups, occurrences, steps
from kernels.rows.columns import (
    DTYPES,
    NEVER_MS,
    RECORD_BYTES,
    RECORD_OFFSETS,
    check_columns,
    check_names,
    names_of,
    shape_of,
    type_name,
)
from kernels.rows.decay import Decay
from kernels.rows.optimizers import Optimizer, check_optimizer
from kernels.rows.protocol import (
    check_gradients,
    check_out,
    check_rows,
    check_slice,
    check_times,
    outside_error,
)

Array = npt.NDArray[Any]

_CPU = torch.device("cpu")
_RECORD_NUMBERS, _WORD = RECORD_BYTES // 8, 8


class NumbaRows:
    """Vectors, moments, records and marks; columns of a record are views on its bytes."""

    def __init__(self, width: int, moments: bool, crew: Crew) -> None:
        self.width, self.end = width, 0
        self._names, self._has_moments, self._crew = names_of(moments), moments, crew
        self._vectors, self._moments = Reserved(np.float32, width), Reserved(np.float32, width)
        self._records, self._marks = Reserved(np.int64, _RECORD_NUMBERS), Reserved(np.uint8)
        self._scratch = groups.scratch_for(crew.size, 1, width)

    @property
    def nbytes(self) -> int:
        columns = (self._vectors, self._moments, self._records, self._marks)
        return sum(memory.nbytes for memory in columns)

    def extend(self, end: int) -> None:
        first, self.end = self.end, max(end, self.end)
        self._vectors.extend(self.end)
        if self._has_moments:
            self._moments.extend(self.end)
        self._records.extend(self.end)
        self._marks.extend(-(-self.end // _WORD) * _WORD)
        self._column("last_seen_ms")[first:] = NEVER_MS

    def put(self, rows_M: Tensor, columns: dict[str, Tensor]) -> None:
        rows = self._checked(rows_M)
        check_columns(columns, len(rows), self.width, self._has_moments)
        for name, tensor in columns.items():
            column, values = self._column(name), _array(tensor)
            if column.ndim == 2:
                access.scatter(column, np.uint64(self.width), rows, values)
            else:
                access.scatter_column(column, rows, values)

    def take(self, rows_M: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        rows = self._checked(rows_M)
        chosen = self._names if names is None else names
        check_names(chosen, self._has_moments)
        return {name: self._taken(name, rows) for name in chosen}

    def clear(self, rows_M: Tensor) -> None:
        rows = self._checked(rows_M)
        vectors, moments = self._vectors.flat, self._moments.flat
        width = np.uint64(self.width)
        access.clear(vectors, moments, self._records.flat, self._marks.flat, width, rows)

    def column(self, name: str, first: int = 0, end: int | None = None) -> Tensor:
        check_names([name], self._has_moments)
        end = self.end if end is None else end
        check_slice(first, end, self.end)
        return torch.from_numpy(self._column(name)[first:end])

    def gather(self, rows_N: Tensor, out_ND: Tensor | None = None) -> Tensor:
        rows = self._checked(rows_N)
        if out_ND is None:
            out_ND = torch.empty(len(rows), self.width)
        check_out(out_ND, rows_N, self.width)
        self._gather("vectors", rows, out_ND.numpy())
        return out_ND

    def touch(self, rows_N: Tensor, at_ms_N: Tensor, decay: Decay) -> None:
        rows = self._checked(rows_N)
        check_times(at_ms_N, rows_N)
        wide = self._records.flat
        table = (wide, wide.view(np.float32), self._marks.flat)
        times = (decay.first_ms, decay.last_ms, decay.half_life_ms or 0)
        self._crew.run(len(rows), occurrences.touch, table, rows, _array(at_ms_N), times)

    def step(self, rows_N: Tensor, grads_ND: Tensor, optimizer: Optimizer, decay: Decay) -> None:
        rows = self._checked(rows_N)
        check_gradients(grads_ND, rows_N, self.width)
        check_optimizer(optimizer, self._has_moments)
        if len(rows) > self._scratch[1].shape[1]:
            room = 1 << len(rows).bit_length()
            self._scratch = groups.scratch_for(self._crew.size, room, self.width)
        numbers = self._records.flat.view(np.float32), self._records.flat.view(np.int32)
        table = (self._vectors.flat, self._moments.flat, *numbers, self._marks.flat)
        grads, rule = _array(grads_ND), steps.rule_of(optimizer, decay)
        width = np.uint64(self.width)
        self._crew.run(len(rows), steps.step, table, rows, grads, width, rule, self._scratch)

    def changed(self) -> Tensor:
        marks = self._marks.flat
        parts = self._crew.run(len(marks), access.changed, marks, marks.view(np.uint64))
        return torch.from_numpy(np.concatenate(parts))

    def _checked(self, rows_N: Tensor) -> npt.NDArray[np.int64]:
        check_rows(rows_N, _CPU)
        rows = _array(rows_N)
        position = access.first_outside(rows, np.uint64(self.end))
        if position < len(rows):
            raise outside_error(int(rows[position]), self.end)
        return rows

    def _column(self, name: str) -> Array:
        """A column as a view, up to `end`."""
        if name in RECORD_OFFSETS:
            dtype = np.dtype(type_name(DTYPES[name]))
            numbers = self._records.flat.view(dtype).reshape(
                self.end, RECORD_BYTES // dtype.itemsize
            )
            return numbers[:, RECORD_OFFSETS[name] // dtype.itemsize]
        memory = {"vectors": self._vectors, "moments": self._moments, "marks": self._marks}[name]
        shape = shape_of(name, self.end, self.width)
        return memory.flat[: math.prod(shape)].reshape(shape)

    def _taken(self, name: str, rows: npt.NDArray[np.int64]) -> Tensor:
        out = torch.empty(shape_of(name, len(rows), self.width), dtype=DTYPES[name])
        if out.dim() == 2:
            self._gather(name, rows, out.numpy())
        else:
            access.gather_column(self._column(name), rows, out.numpy())
        return out

    def _gather(self, name: str, rows: npt.NDArray[np.int64], out: Array) -> None:
        width = np.uint64(self.width)
        self._crew.run(len(rows), access.gather, self._column(name), width, rows, out)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().contiguous().numpy()
