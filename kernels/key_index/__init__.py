"""Key index: 64-bit keys to dense row numbers. Exact: two keys never share a row."""

from kernels.backends import pick
from kernels.key_index.cpu import NumbaIndex
from kernels.key_index.protocol import RESERVED_KEY, KeyIndex
from kernels.key_index.reference import ReferenceIndex

__all__ = ["RESERVED_KEY", "KeyIndex", "key_index"]


def key_index(backend: str = "numba") -> KeyIndex:
    """An empty index. `reference` is a plain dict, `numba` sharded linear probing; both number
    rows alike."""
    kinds: dict[str, type[KeyIndex]] = {"reference": ReferenceIndex, "numba": NumbaIndex}
    return pick(backend, kinds)()
