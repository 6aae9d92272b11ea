"""Reserved memory: grows in place, costs what was written, reads zero where nothing was."""

import numpy as np
import pytest

from kernels.reserved import Pages, Reserved, memory_bytes, page_bytes


def test_a_view_stays_true_while_the_memory_grows() -> None:
    memory = Reserved(np.float32, width=3)
    first = memory.extend(2)
    first[:] = 7
    memory.extend(1_000_000)[3] = 8
    assert first.tolist() == [7, 7, 7, 8, 7, 7]
    assert memory.flat.shape == (3_000_000,)
    assert not memory.flat[6:].any()


def test_the_length_never_shrinks_and_looking_ahead_does_not_change_it() -> None:
    memory = Reserved(np.int64)
    memory.extend(5)
    memory.extend(3)
    assert len(memory.ahead(100)) == 100
    assert (memory.length, len(memory.flat)) == (5, 5)


def test_bytes_are_those_of_whole_pages() -> None:
    memory = Reserved(np.int64, width=4)
    assert memory.nbytes == 0
    memory.extend(1)
    assert memory.nbytes == page_bytes()
    memory.extend(page_bytes() // 32)
    assert memory.nbytes == page_bytes()
    memory.extend(page_bytes() // 32 + 1)
    assert memory.nbytes == 2 * page_bytes()


def test_more_than_the_machine_has_is_refused_with_the_remedy() -> None:
    memory = Reserved(np.int64)
    for grow in (memory.extend, memory.ahead):
        with pytest.raises(MemoryError, match=r"store\.max_bytes"):
            grow(memory_bytes() // 8 + 1)
    assert memory.length == 0


def test_a_range_that_cannot_be_reserved_is_refused_with_the_remedy() -> None:
    with pytest.raises(MemoryError, match="ulimit -v"):
        Pages(1 << 60)


def test_pages_given_back_read_as_zero_and_leave_the_others_alone() -> None:
    pages, page = Pages(3 * page_bytes()), page_bytes()
    pages.all_bytes[:] = 9
    pages.give_back(page, 2 * page)
    assert not pages.all_bytes[page : 2 * page].any()
    assert (pages.all_bytes[:page] == 9).all()
    assert (pages.all_bytes[2 * page :] == 9).all()


def test_memory_begins_on_a_page() -> None:
    assert Reserved(np.uint8).extend(1).ctypes.data % page_bytes() == 0
