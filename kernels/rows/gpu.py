"""Rows on a GPU: columns in slabs of 2^16 rows, records of 32 bytes beside vectors and moments.

Every call checks its rows' range before it writes, for which the host waits; not again for the
tensor of the call before, so that gather, touch and step of one batch wait once. Touch and step
sort the batch by row, once for both as long as they are given the same tensor. A batch must not be
written behind torch's back in between.

A step is bound by memory: gradients are read once, each distinct row's vector, moment and record
are read and written once. `kernels.rows.windows` says how sums are cut and why they repeat. In a
profile (`nsys profile`, `torch.profiler`) `read_rows` and `step_pieces` should take most of the
time and move bytes at the speed of a copy; the sort comes next, then `step_folded`, as long as the
hottest row is. `ncu` on `step_pieces` should show 16-byte accesses and 32 programs a processor.
"""

import math
from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from kernels.gpu import kernel_device, launch, resident_programs
from kernels.rows import moves
from kernels.rows.columns import (
    CHANGED,
    DTYPES,
    EMPTY,
    RECORD_BYTES,
    RECORD_OFFSETS,
    check_columns,
    check_names,
    names_of,
    shape_of,
)
from kernels.rows.decay import TABLE, Decay
from kernels.rows.optimizers import Adagrad, Adam, Optimizer, check_optimizer
from kernels.rows.protocol import (
    check_gradients,
    check_out,
    check_rows,
    check_slice,
    check_times,
    outside_error,
)
from kernels.rows.windows import Batch, Order
from kernels.slabs import Slabs

_NO_BETA = 1e-300
"""In place of a beta of 0, which has no logarithm: its powers are 0 all the same."""


class TritonRows:
    """Vectors, moments, records and marks, each in slabs of its own."""

    def __init__(self, width: int, moments: bool, device: str = "cuda") -> None:
        self._device = kernel_device(device)
        self.width, self.end, self._has_moments = width, 0, moments
        self._vectors, self._moments = (self._slabs(torch.zeros(width)) for _ in range(2))
        self._records = self._slabs(_empty_record())
        self._marks = self._slabs(torch.zeros(1, dtype=torch.uint8))
        self._table = torch.from_numpy(TABLE).view(torch.int32).to(self._device)
        self._batch: Batch | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of whole slabs."""
        columns = (self._vectors, self._moments, self._records, self._marks)
        return sum(column.nbytes for column in columns)

    def extend(self, end: int) -> None:
        self.end = max(end, self.end)
        for column in (self._vectors, self._records, self._marks):
            column.extend(self.end)
        if self._has_moments:
            self._moments.extend(self.end)

    def put(self, rows_M: Tensor, columns: dict[str, Tensor]) -> None:
        rows_M = self._checked(rows_M)
        check_columns(columns, len(rows_M), self.width, self._has_moments)
        for name, values in columns.items():
            slabs, offset = self._place(name)
            slabs.write(rows_M, _in_rows(values.detach().contiguous()), offset)

    def take(self, rows_M: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        rows_M = self._checked(rows_M)
        chosen = names_of(self._has_moments) if names is None else names
        check_names(chosen, self._has_moments)
        return {name: self._taken(name, rows_M) for name in chosen}

    def clear(self, rows_M: Tensor) -> None:
        empty = {
            name: self._new(name, len(rows_M)).fill_(EMPTY[name])
            for name in names_of(self._has_moments)
        }
        self.put(rows_M, empty)

    def column(self, name: str, first: int = 0, end: int | None = None) -> Tensor:
        check_names([name], self._has_moments)
        end = self.end if end is None else end
        check_slice(first, end, self.end)
        slabs, offset = self._place(name)
        rows_RW = slabs.copy(first, end)
        if name not in RECORD_OFFSETS:
            return rows_RW.view(shape_of(name, end - first, self.width))
        return rows_RW.view(DTYPES[name])[:, offset // DTYPES[name].itemsize].contiguous()

    def gather(self, rows_N: Tensor, out_ND: Tensor | None = None) -> Tensor:
        rows_N = self._checked(rows_N)
        out_ND = self._new("vectors", len(rows_N)) if out_ND is None else out_ND
        check_out(out_ND, rows_N, self.width)
        self._vectors.read(rows_N, out_ND)
        return out_ND

    def touch(self, rows_N: Tensor, at_ms_N: Tensor, decay: Decay) -> None:
        self._check(rows_N)
        check_times(at_ms_N, rows_N)
        if not len(rows_N):
            return
        order = self._order(rows_N)
        records = self._records.addresses, self._marks.addresses
        part_latest = torch.empty(2 * order.windows, dtype=torch.int64, device=self._device)
        part_weight = torch.empty(2 * order.windows, device=self._device)
        launch(
            moves.touch_windows, order.windows, order.rows_N, order.positions_N, order.n,
            at_ms_N.contiguous(), self._table, decay.first_ms, decay.last_ms,
            decay.half_life_ms or 1, *records, part_latest, part_weight,
            DECAYS=decay.half_life_ms is not None, **moves.TOUCH_OPTIONS,
        )  # fmt: skip
        launch(
            moves.touch_folded, order.windows, order.rows_N, order.n, part_latest, part_weight,
            *records, **moves.TOUCH_FOLD_OPTIONS,
        )  # fmt: skip

    def step(self, rows_N: Tensor, grads_ND: Tensor, optimizer: Optimizer, decay: Decay) -> None:
        self._check(rows_N)
        check_gradients(grads_ND, rows_N, self.width)
        check_optimizer(optimizer, self._has_moments)
        numbers = _numbers(optimizer)
        if not len(rows_N):
            return
        order = self._order(rows_N)
        starts, pieces = order.pieces
        parts = torch.empty(2 * order.windows, self.width, device=self._device)
        columns = [
            column.addresses
            for column in (self._vectors, self._moments, self._records, self._marks)
        ]
        adam = isinstance(optimizer, Adam)
        options = moves.piece_options(self.width, adam)
        tiles = triton.cdiv(order.n, options["TILE"])
        launch(
            moves.step_pieces, min(tiles, resident_programs(self._device)), order.rows_N,
            order.positions_N, order.n, grads_ND.detach().contiguous(), starts, pieces, parts,
            *columns, *numbers, **options,
        )  # fmt: skip
        launch(
            moves.step_folded, order.windows, order.rows_N, order.n, parts, *columns, *numbers,
            **moves.fold_options(self.width, adam),
        )  # fmt: skip

    def changed(self) -> Tensor:
        return torch.nonzero(self.column("marks") & CHANGED).flatten()

    def _slabs(self, empty: Tensor) -> Slabs:
        return Slabs(empty.to(self._device))

    def _place(self, name: str) -> tuple[Slabs, int]:
        """The slabs that hold a column, and its first byte in a row of them."""
        whole = {"vectors": self._vectors, "moments": self._moments, "marks": self._marks}
        return whole.get(name, self._records), RECORD_OFFSETS.get(name, 0)

    def _new(self, name: str, rows: int) -> Tensor:
        shape = shape_of(name, rows, self.width)
        return torch.empty(shape, dtype=DTYPES[name], device=self._device)

    def _taken(self, name: str, rows_M: Tensor) -> Tensor:
        slabs, offset = self._place(name)
        taken = self._new(name, len(rows_M))
        slabs.read(rows_M, _in_rows(taken), offset)
        return taken

    def _checked(self, rows_N: Tensor) -> Tensor:
        self._check(rows_N)
        return rows_N.contiguous()

    def _check(self, rows_N: Tensor) -> None:
        check_rows(rows_N, self._device)
        if not len(rows_N) or (self._batch and self._batch.is_of(rows_N)):
            return
        least, most = torch.stack(torch.aminmax(rows_N)).tolist()
        if least < 0 or most >= self.end:
            outside_N = (rows_N < 0) | (rows_N >= self.end)
            raise outside_error(int(rows_N[outside_N][0]), self.end)
        self._batch = Batch(rows_N, self.end)

    def _order(self, rows_N: Tensor) -> Order:
        """The batch just checked, by row."""
        assert self._batch
        return self._batch.order(rows_N)


def _empty_record() -> Tensor:
    record = torch.zeros(RECORD_BYTES, dtype=torch.uint8)
    for name, offset in RECORD_OFFSETS.items():
        value = torch.tensor([EMPTY[name]], dtype=DTYPES[name]).view(torch.uint8)
        record[offset : offset + len(value)] = value
    return record.view(torch.int64)


def _in_rows(values: Tensor) -> Tensor:
    """One row of numbers for each entry."""
    return values if values.dim() == 2 else values.unsqueeze(1)


def _numbers(optimizer: Optimizer) -> tuple[float, ...]:
    """What the step kernels take: rate and eps, then of each beta itself, its rest to 1, its log.

    Raises ValueError for an optimizer that runs on CPU alone.
    """
    match optimizer:
        case Adam(rate, beta1, beta2, eps):
            betas = ((beta, 1 - beta, math.log(beta or _NO_BETA)) for beta in (beta1, beta2))
            return (rate, eps, *(number for beta in betas for number in beta))
        case Adagrad(rate, eps):
            return (rate, eps, *[0.0] * 6)
        case _:
            raise ValueError(
                f"{type(optimizer).__name__} runs on the CPU alone; use Adagrad or Adam, or "
                "backend 'numba'"
            )
