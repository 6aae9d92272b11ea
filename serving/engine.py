"""The one thread that owns the served version and the histories.

Everything that reads or changes them is a job on its queue and runs alone: a ranking, a block of
new events, the change of version. So no answer mixes two versions and no reader stands beside a
mutation of a table.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

import numpy as np

from service.histories.local import Histories, LocalHistories
from service.histories.rings import Longs
from service.model.ranker import Ranker
from service.versions.manifest import Manifest
from serving.catalogue import Catalogue
from serving.problems import Problem

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

    def age_seconds(self, now: float) -> float:
        """Time since the version was created, by the clocks of trainer and server."""
        return max(0.0, now - self.manifest.created_at)

    @property
    def rows(self) -> str:
        """The precision of item vectors in the snapshot; they are decoded when they are loaded."""
        return self.ranker.items.precision

    def describe(self, now: float) -> dict[str, int | float]:
        """The version as /v1/versions shows it."""
        return {
            "number": self.number,
            "created_at": self.manifest.created_at,
            "age_seconds": round(self.age_seconds(now), 3),
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

    def read(self, user_key: int) -> Histories:
        """All events that are kept of one user; none if unknown, or unseen for too long."""
        most = self.histories.settings.capacity
        return self.histories.read(np.array([user_key], np.int64), most, self.watermark_ms)


Job = Callable[[Tables], T]


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

    def __init__(self, tables: Tables, queue_limit: int) -> None:
        self._tables = tables
        self._limit = queue_limit
        self._queue: queue.SimpleQueue[tuple[Future[Any], Job[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

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

    async def ask(self, job: Job[T]) -> T:
        """Await a request's job. Raises Problem 429 when too many wait, and what the job raises."""
        if self.waiting >= self._limit:
            raise Problem(
                "overloaded",
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{self._limit} requests are waiting; try again later or start another server",
                headers={"Retry-After": "1"},
            )
        return await asyncio.wrap_future(self._submit(job))

    def do(self, job: Job[T]) -> T:
        """Run a job from another thread of this process and wait for it."""
        return self._submit(job).result()

    def _submit(self, job: Job[T]) -> Future[T]:
        future: Future[T] = Future()
        self._queue.put((future, job))
        return future

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            future, job = entry
            # A request whose client is gone was cancelled: it costs nothing more.
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job(self._tables))
            except BaseException as error:
                future.set_exception(error)
            del entry, future, job
