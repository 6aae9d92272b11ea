"""The one thread that owns the served version and the histories.

Everything that reads or changes them is a job on its queue and runs alone: some rankings, a block
of new events, the change of version. So no answer mixes two versions and no reader stands beside a
mutation of a table. Rankings that wait at the same time are done together, as far as they fit.
"""

import asyncio
import logging
import math
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar

import numpy as np

from kernels.crew import Crew
from service.histories.local import Histories, LocalHistories
from service.histories.rings import Longs
from service.model.ranker import Ranker
from service.model.readings import Readings
from service.versions.manifest import Manifest
from serving.catalogue import Catalogue
from serving.pages import Pages
from serving.problems import Problem
from serving.questions import Version

log = logging.getLogger("serving.engine")

T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    """A loaded, warmed version and what its manifest says."""

    ranker: Ranker
    manifest: Manifest

    @property
    def number(self) -> int:
        """The version's number."""
        return self.manifest.number

    @property
    def version(self) -> Version:
        """What answers say of it."""
        return Version(self.number, self.manifest.created_at)

    @property
    def rows(self) -> str:
        """The precision of item vectors in the snapshot; they are decoded where they are read."""
        return self.ranker.items.precision

    def describe(self, now: float) -> dict[str, int | float]:
        """The version as /v1/versions shows it."""
        return {
            "number": self.number,
            "created_at": self.manifest.created_at,
            "age_seconds": round(self.version.age_seconds(now), 3),
            "watermark": self.manifest.watermark_ms / 1000,
        }


@dataclass
class Tables:
    """What the engine's thread owns; handed to every job."""

    histories: LocalHistories
    served: Served | None = None
    watermark_ms: int = 0
    """Event time that the histories have reached; what is over by then is over."""
    catalogue: Catalogue = field(default_factory=Catalogue)
    """What is known of items, whatever version answers."""
    elsewhere: "Reader | None" = None
    """Reads histories that are kept by another process; without it they are in `histories`."""
    readings: Readings = field(default_factory=lambda: Readings(0))
    """What versions have read of histories; nothing is kept without room for it."""
    crew: Crew = field(default_factory=Crew)
    """Threads that search all items."""
    pages: Pages = field(default_factory=lambda: Pages(0, 0.0))
    """What requests were given; nothing is kept without room for it."""

    @property
    def ranker(self) -> Ranker | None:
        """That of the version that answers, if there is one."""
        return None if self.served is None else self.served.ranker

    def serve(self, served: Served, keys_N: Longs | None = None) -> None:
        """Answer from this version from now on; `keys_N` are the items whose rows come, go or
        change with it, None for all."""
        self.served = served
        self.catalogue.link(served.ranker, keys_N)

    def require_served(self) -> Served:
        """The version that answers. Raises Problem 503 while there is none."""
        if self.served is None:
            raise not_ready()
        return self.served

    def read(self, user_keys: Sequence[int]) -> list[Histories]:
        """Of each user all events that are kept; none if unknown, or unseen for too long."""
        if self.elsewhere is not None:
            return self.elsewhere(user_keys)
        most = self.histories.settings.capacity
        return [
            self.histories.read(np.array([user_key], np.int64), most, self.watermark_ms)
            for user_key in user_keys
        ]


Reader = Callable[[Sequence[int]], list[Histories]]
Job = Callable[[Tables], T]

TOGETHER_ROWS = 2048
"""Rankings are done together up to so many candidates: more would only make the first ones wait."""


class Together(ABC):
    """Base of jobs that are cheaper beside others of their kind."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """How much one asks for."""

    @staticmethod
    @abstractmethod
    def together(jobs: Sequence[Any], tables: Tables) -> list[Any]:
        """The results of several, in order; an exception says that one of them fails."""


class _Entry(NamedTuple):
    future: Future[Any]
    job: Job[Any]
    until: float
    """Monotonic time after which nobody waits any more."""


def not_ready() -> Problem:
    """503: nothing can be ranked before the first version is loaded."""
    return Problem(
        "not-ready",
        HTTPStatus.SERVICE_UNAVAILABLE,
        "no version is loaded yet; actions are taken, rankings start with the first version",
        headers={"Retry-After": "1"},
    )


class Engine:
    """Runs jobs one after the other on a thread of its own."""

    def __init__(self, tables: Tables, queue_limit: int, deadline_seconds: float) -> None:
        self._tables = tables
        self._limit, self._deadline_seconds = queue_limit, deadline_seconds
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._held: list[_Entry | None] = []
        """Taken from the queue and not yet begun; at most one."""
        self._seconds = 0.0
        """What a ranking took lately."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def read_elsewhere(self, reader: Reader) -> None:
        """Rank by histories that another process keeps; told before the start."""
        self._tables.elsewhere = reader

    def start(self) -> None:
        """Begin to run jobs."""
        self._thread.start()

    def close(self) -> None:
        """Finish the jobs that wait, then stop."""
        self._queue.put(None)
        self._thread.join()

    @property
    def served(self) -> Served | None:
        """The version that answers at this moment; only to look at, not to rank with."""
        return self._tables.served

    @property
    def catalogue(self) -> Catalogue:
        """What is known of items at this moment; only to be counted."""
        return self._tables.catalogue

    @property
    def waiting(self) -> int:
        """Jobs that wait for the one that runs."""
        return self._queue.qsize()

    def ask(self, job: Job[T], since: float | None = None) -> "asyncio.Future[T]":
        """A request's job, to be awaited on the running loop; cancelled in time it is not done.

        since: monotonic time from which its wait counts, that of this call without it.

        Raises Problem 429 when so many wait that it would not be done in time; awaiting raises
        the same if it was not, and what the job raises.
        """
        wait_seconds = self.waiting * self._seconds
        if self.waiting >= self._limit or wait_seconds > self._deadline_seconds:
            raise overloaded(self.waiting, wait_seconds)
        until = (time.monotonic() if since is None else since) + self._deadline_seconds
        return asyncio.wrap_future(self._submit(job, until))

    def do(self, job: Job[T]) -> T:
        """Run a job from another thread of this process and wait for it."""
        return self._submit(job, math.inf).result()

    def _submit(self, job: Job[T], until: float) -> Future[T]:
        future: Future[T] = Future()
        self._queue.put(_Entry(future, job, until))
        return future

    def _run(self) -> None:
        while (entries := self._next()) is not None:
            began = time.monotonic()
            wanted = [one for one in entries if self._begins(one, began)]
            if not wanted:
                continue
            if len(wanted) > 1:
                self._do_together(wanted)
            else:
                self._do(wanted[0])
            if wanted[0].until < math.inf:
                self._seconds += ((time.monotonic() - began) / len(wanted) - self._seconds) / 8
            del entries, wanted

    def _next(self) -> list[_Entry] | None:
        """What is done next, together if it is more than one; None at the end."""
        first = self._held.pop() if self._held else self._queue.get()
        if first is None:
            return None
        entries, rows = [first], _rows(first)
        while 0 < rows < TOGETHER_ROWS and not self._queue.empty():
            following = self._queue.get()
            if following is None or type(following.job) is not type(first.job):
                self._held.append(following)
                break
            entries.append(following)
            rows += _rows(following)
        return entries

    def _begins(self, entry: _Entry, now: float) -> bool:
        """Whether somebody still waits for it. A request whose client is gone was cancelled."""
        if not entry.future.set_running_or_notify_cancel():
            return False
        if now > entry.until:
            entry.future.set_exception(overloaded(self.waiting, self._deadline_seconds))
            return False
        return True

    def _do(self, entry: _Entry) -> None:
        try:
            entry.future.set_result(entry.job(self._tables))
        except BaseException as error:
            entry.future.set_exception(error)

    def _do_together(self, entries: Sequence[_Entry]) -> None:
        first: Any = entries[0].job
        try:
            results = first.together([entry.job for entry in entries], self._tables)
        except Exception:
            # One of them fails, and none for the sake of another.
            for entry in entries:
                self._do(entry)
            return
        for entry, result in zip(entries, results, strict=True):
            entry.future.set_result(result)


def _rows(entry: _Entry) -> int:
    """How much is asked for, 0 for what is done alone."""
    job: object = entry.job
    return max(1, job.rows) if isinstance(job, Together) else 0


def overloaded(waiting: int, wait_seconds: float) -> Problem:
    """429: more is asked than can be answered in time."""
    return Problem(
        "overloaded",
        HTTPStatus.TOO_MANY_REQUESTS,
        f"{waiting} requests are waiting, for {wait_seconds:.1f} s; try again later or start "
        "another server",
        headers={"Retry-After": str(max(1, math.ceil(wait_seconds)))},
    )
