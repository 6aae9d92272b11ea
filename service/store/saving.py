"""Saving: the table as it was at one moment, copied in slices while it goes on."""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.rows import RowTable

_AT_ONCE = 32_768


class Saving:
    """Copies rows from the first to the last; what else a state holds is copied at the start.

    Before a row is changed that is not copied yet, its owner calls `keep`. The copy takes as much
    memory as the rows, which no budget counts.
    """

    def __init__(self, rows: RowTable, device: torch.device, rest: dict[str, Tensor]) -> None:
        self._rows, self._device, self._rest = rows, device, rest
        self._next, self._end = 0, rows.end
        none = rows.take(torch.empty(0, dtype=torch.int64, device=device))
        self._saved = {
            name: torch.empty(self._end, *empty.shape[1:], dtype=empty.dtype)
            for name, empty in none.items()
            if name != "marks"
        }
        self._kept_R = torch.zeros(self._end, dtype=torch.bool)

    @property
    def finished(self) -> bool:
        """Whether everything is copied."""
        return self._next == self._end

    def step(self, rows: int) -> bool:
        """Copy the next `rows` rows; whether that was all."""
        end = min(self._next + rows, self._end)
        kept = self._kept_R[self._next : end]
        if kept.any():
            self._copy((~kept).nonzero().squeeze(1) + self._next)
        else:
            for name, saved in self._saved.items():
                saved[self._next : end] = self._rows.column(name, self._next, end)
        self._next = end
        return self.finished

    def finish(self) -> dict[str, Tensor]:
        """Copy the rest at once; the state."""
        while not self.step(_AT_ONCE):
            pass
        return self.state()

    def state(self) -> dict[str, Tensor]:
        """What `EmbeddingTable.load` takes, on the CPU. RuntimeError before all is copied."""
        if not self.finished:
            raise RuntimeError(
                f"{self._next} of {self._end} rows are copied; call step until it returns True, "
                "or finish"
            )
        return self._rest | {f"rows.{name}": saved for name, saved in self._saved.items()}

    def keep(self, rows_N: Tensor) -> None:
        """Copy those of the rows that are not copied yet: they are about to change."""
        if not self.finished:
            rows, kept = rows_N.cpu().numpy(), self._kept_R.numpy()
            waiting = np.empty(len(rows), np.int64)
            count = _keep(rows, self._next, self._end, kept, waiting)
            self._copy(torch.from_numpy(waiting[:count]))

    def _copy(self, rows_K: Tensor) -> None:
        taken = self._rows.take(rows_K.to(self._device), list(self._saved))
        for name, saved in self._saved.items():
            saved[rows_K] = taken[name].cpu()


@njit(cache=True, nogil=True)
def _keep(rows: Any, first: Any, end: Any, kept: Any, waiting: Any) -> int:
    """The distinct rows in first .. end-1 that are not kept yet; they are from now on."""
    count = 0
    for i in range(len(rows)):
        row = rows[i]
        if first <= row < end and not kept[row]:
            kept[row] = True
            waiting[count] = row
            count += 1
    return count
