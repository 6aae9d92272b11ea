"""Rows in plain torch, one tensor a column: the specification. Sums run in batch order."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.reserved import Reserved
from kernels.rows.columns import (
    CHANGED,
    DTYPES,
    EMPTY,
    check_columns,
    check_names,
    names_of,
    shape_of,
    type_name,
)
from kernels.rows.decay import Decay
from kernels.rows.optimizers import (
    NORM_KEPT,
    Adagrad,
    Adam,
    FrequencySgd,
    Optimizer,
    Sgd,
    check_optimizer,
)
from kernels.rows.protocol import (
    check_gradients,
    check_out,
    check_rows,
    check_slice,
    check_times,
    outside_error,
)

_CPU = torch.device("cpu")


class ReferenceRows:
    """The columns in a dict, and what happens to them."""

    def __init__(self, width: int, moments: bool) -> None:
        self.width, self._moments, self.end = width, moments, 0
        self._memory = {
            name: Reserved(type_name(DTYPES[name]), math.prod(shape_of(name, 1, width)))
            for name in names_of(moments)
        }
        self._columns: dict[str, Tensor] = {}
        self.extend(0)

    @property
    def nbytes(self) -> int:
        return sum(memory.nbytes for memory in self._memory.values())

    def extend(self, end: int) -> None:
        first, self.end = self.end, max(end, self.end)
        for name, memory in self._memory.items():
            flat = torch.from_numpy(memory.extend(self.end))
            self._columns[name] = flat.view(shape_of(name, self.end, self.width))
            self._columns[name][first:] = EMPTY[name]

    def put(self, rows_M: Tensor, columns: dict[str, Tensor]) -> None:
        self._check(rows_M)
        check_columns(columns, len(rows_M), self.width, self._moments)
        for name, values in columns.items():
            self._columns[name][rows_M] = values.detach()

    def take(self, rows_M: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        self._check(rows_M)
        chosen = names_of(self._moments) if names is None else names
        check_names(chosen, self._moments)
        return {name: self._columns[name][rows_M] for name in chosen}

    def clear(self, rows_M: Tensor) -> None:
        self._check(rows_M)
        for name, column in self._columns.items():
            column[rows_M] = EMPTY[name]

    def column(self, name: str, first: int = 0, end: int | None = None) -> Tensor:
        check_names([name], self._moments)
        end = self.end if end is None else end
        check_slice(first, end, self.end)
        return self._columns[name][first:end]

    def gather(self, rows_N: Tensor, out_ND: Tensor | None = None) -> Tensor:
        self._check(rows_N)
        if out_ND is None:
            return self._columns["vectors"][rows_N]
        check_out(out_ND, rows_N, self.width)
        return out_ND.copy_(self._columns["vectors"][rows_N])

    def touch(self, rows_N: Tensor, at_ms_N: Tensor, decay: Decay) -> None:
        self._check(rows_N)
        check_times(at_ms_N, rows_N)
        known_N = rows_N > 0
        rows_M, at_ms_M = rows_N[known_N], at_ms_N[known_N]
        self._columns["last_seen_ms"].scatter_reduce_(0, rows_M, at_ms_M, "amax")
        self._columns["weight"].index_add_(0, rows_M, decay.weights(at_ms_M))
        self._columns["marks"][rows_M] |= CHANGED

    def step(self, rows_N: Tensor, grads_ND: Tensor, optimizer: Optimizer, decay: Decay) -> None:
        self._check(rows_N)
        check_gradients(grads_ND, rows_N, self.width)
        check_optimizer(optimizer, self._moments)
        rows_U, place_N = torch.unique(rows_N, return_inverse=True)
        sums_UD = torch.zeros(len(rows_U), self.width)
        sums_UD.index_add_(0, place_N, grads_ND.detach())
        stepped = self.take(rows_U)
        stepped["marks"] |= CHANGED
        _move(stepped, sums_UD, optimizer, decay)
        self.put(rows_U, stepped)

    def changed(self) -> Tensor:
        return torch.nonzero(self.column("marks") & CHANGED).flatten()

    def _check(self, rows_N: Tensor) -> None:
        check_rows(rows_N, _CPU)
        outside_N = (rows_N < 0) | (rows_N >= self.end)
        if outside_N.any():
            raise outside_error(int(rows_N[outside_N][0]), self.end)


def _move(rows: dict[str, Tensor], g_UD: Tensor, optimizer: Optimizer, decay: Decay) -> None:
    """One step of each row, in place, by its summed gradient."""
    mean_U = g_UD.square().mean(dim=1)
    norm_U, before_U = mean_U.sqrt(), rows["gradient_norm"]
    blended_U = NORM_KEPT * before_U + (1 - NORM_KEPT) * norm_U
    rows["gradient_norm"] = torch.where(rows["steps"] == 0, norm_U, blended_U)
    rows["steps"] += 1
    direction_UD, rate_U = g_UD, torch.full_like(mean_U, optimizer.learning_rate)
    match optimizer:
        case Adagrad(eps=eps):
            rows["square"] += mean_U
            rate_U /= rows["square"].sqrt() + eps
        case Adam(beta1=beta1, beta2=beta2, eps=eps):
            steps_U = rows["steps"].double()
            rows["square"] = beta2 * rows["square"] + (1 - beta2) * mean_U
            rows["moments"] = beta1 * rows["moments"] + (1 - beta1) * g_UD
            direction_UD = rows["moments"]
            rate_U /= (rows["square"] / (1 - beta2**steps_U).float()).sqrt() + eps
            rate_U /= (1 - beta1**steps_U).float()
        case FrequencySgd():
            rate_U /= decay.count(rows["weight"], decay.now_ms).clamp(min=1).sqrt()
        case Sgd():
            pass
    rows["vectors"] -= rate_U.unsqueeze(1) * direction_UD
