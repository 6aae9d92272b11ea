"""What the store keeps by row, and what a training step does to it: read, mark as used, move."""

from kernels.backends import only_cpu, pick
from kernels.crew import Crew
from kernels.rows.columns import CHANGED, KNOWN, NEVER_MS, row_bytes
from kernels.rows.cpu import NumbaRows
from kernels.rows.decay import Decay
from kernels.rows.optimizers import Adagrad, Adam, FrequencySgd, Optimizer, Sgd
from kernels.rows.protocol import RowTable
from kernels.rows.reference import ReferenceRows

__all__ = [
    "CHANGED",
    "KNOWN",
    "NEVER_MS",
    "Adagrad",
    "Adam",
    "Decay",
    "FrequencySgd",
    "Optimizer",
    "RowTable",
    "Sgd",
    "row_bytes",
    "row_table",
]


def row_table(
    width: int,
    moments: bool,
    backend: str = "numba",
    crew: Crew | None = None,
    device: str = "cpu",
) -> RowTable:
    """An empty table of rows of `width` numbers; `moments` for Adam.

    - `reference`: plain torch
    - `numba`: on the CPU, work shared by the crew's threads (default: one)
    - `triton`: CUDA, or the CPU under TRITON_INTERPRET=1
    """
    make = pick(backend, {"reference": _reference, "numba": _numba, "triton": _triton})
    return make(width, moments, crew or Crew(), device)


def _reference(width: int, moments: bool, crew: Crew, device: str) -> RowTable:
    only_cpu("reference", device)
    return ReferenceRows(width, moments)


def _numba(width: int, moments: bool, crew: Crew, device: str) -> RowTable:
    only_cpu("numba", device)
    return NumbaRows(width, moments, crew)


def _triton(width: int, moments: bool, crew: Crew, device: str) -> RowTable:
    # Imported on demand: a server has no triton.
    from kernels.rows.gpu import TritonRows

    return TritonRows(width, moments, device)
