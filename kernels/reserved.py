"""Memory that grows at its end and never moves: no copy when a table grows, and views stay true.

A range of addresses as large as the machine's memory is reserved at once; the system gives a page
to it when it is first written. Pages are huge where the system has them (2 MiB): rows are read in
random order, and small pages would cost a miss in the address cache for every row.
"""

import mmap
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HUGE_BYTES = 1 << 21

_RESERVE_ONLY = 0x4000 if os.uname().sysname == "Linux" else 0
"""MAP_NORESERVE, which Python's mmap names from 3.13 on."""
_HUGE_PAGES_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


class Reserved:
    """A growing array of `width` numbers of a type per item, zero where never written."""

    def __init__(self, dtype: npt.DTypeLike, width: int = 1) -> None:
        self._dtype, self._width = np.dtype(dtype), width
        self.length = 0
        """Items in use."""
        items = memory_bytes() // self._item_bytes
        self._all = Pages(items * self._item_bytes).all_bytes.view(self._dtype)

    def extend(self, length: int) -> npt.NDArray[Any]:
        """Make the first `length` items usable (never fewer than before); all of them, flat.

        Raises MemoryError beyond the machine's memory.
        """
        self.ahead(length)
        self.length = max(length, self.length)
        return self.flat

    def ahead(self, length: int) -> npt.NDArray[Any]:
        """The first `length` items, flat, for a caller who does not know yet how many it will
        use and tells `extend` afterwards. Raises MemoryError like it."""
        if length * self._width > len(self._all):
            raise MemoryError(
                f"{length} items of {self._item_bytes} bytes exceed this machine's memory of "
                f"{memory_bytes()} bytes; give the store a limit with store.max_bytes"
            )
        return self._all[: length * self._width]

    @property
    def flat(self) -> npt.NDArray[Any]:
        """The items in use as one flat array: a view that stays true while the memory grows."""
        return self._all[: self.length * self._width]

    @property
    def nbytes(self) -> int:
        """Bytes of the pages that hold the items in use."""
        return -(-self.length * self._item_bytes // page_bytes()) * page_bytes()

    @property
    def _item_bytes(self) -> int:
        return self._width * self._dtype.itemsize


class Pages:
    """A range of addresses, zero where never written; it costs memory where it was."""

    def __init__(self, length: int) -> None:
        """`length` bytes from the start of a huge page on. Raises MemoryError without a range."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _RESERVE_ONLY
        try:
            self._map = mmap.mmap(-1, length + HUGE_BYTES, flags=flags)
        except OSError as error:
            raise MemoryError(
                f"no address range of {length} bytes could be reserved ({error}); "
                "allow it: ulimit -v unlimited, and vm.overcommit_memory other than 2"
            ) from None
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        everything = np.frombuffer(self._map, np.uint8)
        self._first = -everything.ctypes.data % HUGE_BYTES
        self.all_bytes = everything[self._first : self._first + length]

    def give_back(self, first: int, end: int) -> None:
        """Bytes first..end-1, whole pages, cost nothing again; they read as zero."""
        self._map.madvise(mmap.MADV_DONTNEED, self._first + first, end - first)


def memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@cache
def page_bytes() -> int:
    """What one write to fresh reserved memory costs: a huge page where the system has them."""
    if not hasattr(mmap, "MADV_HUGEPAGE") or not _HUGE_PAGES_SETTING.exists():
        return mmap.PAGESIZE
    return mmap.PAGESIZE if "[never]" in _HUGE_PAGES_SETTING.read_text() else HUGE_BYTES
