"""Key index: 64-bit keys to dense row numbers. Exact: two keys never share a row."""

from kernels.backends import only_cpu, pick
from kernels.crew import Crew
from kernels.key_index.cpu import NumbaIndex
from kernels.key_index.protocol import RESERVED_KEY, KeyIndex
from kernels.key_index.reference import ReferenceIndex

__all__ = ["RESERVED_KEY", "KeyIndex", "key_index"]


def key_index(
    backend: str = "numba", crew: Crew | None = None, device: str = "cpu"
) -> KeyIndex:  # fmt: skip
    """An empty index; all number rows alike.

    - `reference`: a plain dict
    - `numba`: sharded linear probing on the CPU; lookups run on the crew's threads (default: one)
    - `triton`: CUDA, or the CPU under TRITON_INTERPRET=1
    """
    make = pick(backend, {"reference": _reference, "numba": _numba, "triton": _triton})
    return make(crew or Crew(), device)


def _reference(crew: Crew, device: str) -> KeyIndex:
    only_cpu("reference", device)
    return ReferenceIndex()


def _numba(crew: Crew, device: str) -> KeyIndex:
    only_cpu("numba", device)
    return NumbaIndex(crew)


def _triton(crew: Crew, device: str) -> KeyIndex:
    # Imported on demand: a server has no triton.
    from kernels.key_index.gpu import TritonIndex

    return TritonIndex(device)
