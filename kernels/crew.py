"""Threads of our own for compiled loops, each on its share of one batch.

numba's `parallel=True` aborts the process when two threads enter it at once, and OpenMP threads
spin on cores that other work needs; a crew does neither.
"""

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

SMALL = 4096
"""Work on fewer items is done by the caller alone: handing it out would take longer."""


class Crew:
    """`size` threads, the caller's among them. Their work must let go of the GIL (`nogil=True`)."""

    def __init__(self, size: int = 1) -> None:
        if size < 1:
            raise ValueError(f"a crew of {size} threads does nothing; use 1 or more")
        self.size = size
        self._jobs: list[SimpleQueue[Any]] = [SimpleQueue() for _ in range(size - 1)]
        for jobs in self._jobs:
            threading.Thread(target=_serve, args=(jobs,), name="crew", daemon=True).start()
        # Not at exit: threads that wake in a dying interpreter abort it, and daemons end anyway.
        weakref.finalize(self, _dismiss, self._jobs).atexit = False

    def run(self, items: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """`work(part, parts, *arguments)` for every part of a batch of `items`; what each returned.

        Which part a thread gets decides what it does, so that results do not depend on timing. An
        error is raised when every part has ended.
        """
        if not self._jobs or items < SMALL:
            return [work(0, 1, *arguments)]
        done: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()
        for part, jobs in enumerate(self._jobs, 1):
            jobs.put((done, work, part, self.size, arguments))
        _do(done, work, 0, self.size, arguments)
        results: list[Any] = [None] * self.size
        errors = []
        for _ in results:
            part, results[part], error = done.get()
            errors += [error] if error is not None else []
        if errors:
            raise errors[0]
        return results


def _serve(jobs: "SimpleQueue[Any]") -> None:
    """Do jobs until there is a None among them."""
    while (job := jobs.get()) is not None:
        _do(*job)
        del job  # or its arrays would live until the next one


def _do(
    done: "SimpleQueue[Any]", work: Callable[..., Any], part: int, parts: int, arguments: Any
) -> None:
    try:
        done.put((part, work(part, parts, *arguments), None))
    except BaseException as error:
        done.put((part, None, error))


def _dismiss(crew: "list[SimpleQueue[Any]]") -> None:
    for jobs in crew:
        jobs.put(None)
