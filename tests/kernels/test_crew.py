"""A crew: every part done once, results in order, errors raised, threads that end."""

import gc
import threading
import time
from collections.abc import Callable

import pytest

from kernels.crew import SMALL, Crew


def part_of(part: int, parts: int, *arguments: object) -> tuple[int, int, tuple[object, ...]]:
    return part, parts, arguments


def crew_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "crew"}


def eventually(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_part_is_done_once_and_answers_in_order(size: int) -> None:
    crew = Crew(size)
    for _ in range(50):
        assert crew.run(SMALL, part_of, "a", 1) == [(p, size, ("a", 1)) for p in range(size)]


def test_small_work_is_the_caller_s_alone() -> None:
    def who(part: int, parts: int) -> tuple[int, int, int]:
        return part, parts, threading.get_ident()

    crew = Crew(3)
    assert crew.run(SMALL - 1, who) == [(0, 1, threading.get_ident())]
    assert crew.run(SMALL, who)[0] == (0, 3, threading.get_ident())
    assert len({ident for _, _, ident in crew.run(SMALL, who)}) == 3


@pytest.mark.parametrize("failing", [0, 2])
def test_an_error_is_raised_after_every_part_has_ended(failing: int) -> None:
    ended = []

    def work(part: int, parts: int) -> None:
        if part == failing:
            raise KeyError(part)
        time.sleep(0.02)
        ended.append(part)

    crew = Crew(3)
    with pytest.raises(KeyError, match=str(failing)):
        crew.run(SMALL, work)
    assert sorted(ended) == [part for part in range(3) if part != failing]
    assert crew.run(SMALL, part_of) == [(p, 3, ()) for p in range(3)]


def test_callers_share_a_crew_without_mixing_their_results() -> None:
    crew, wrong = Crew(2), []

    def call(mine: int) -> None:
        for _ in range(200):
            if crew.run(SMALL, part_of, mine) != [(0, 2, (mine,)), (1, 2, (mine,))]:
                wrong.append(mine)

    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_the_threads_end_with_their_crew() -> None:
    before = crew_threads()
    crew = Crew(4)
    own = crew_threads() - before
    assert len(own) == 3
    del crew
    gc.collect()
    assert eventually(lambda: not own & crew_threads())


def test_a_crew_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="a crew of 0 threads does nothing; use 1 or more"):
        Crew(0)
