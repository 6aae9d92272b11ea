"""Follows the version directory: every new version is verified, loaded and warmed aside, then
handed to the engine between two requests.

A version that cannot be loaded is refused: logged and counted with its reason, remembered, and
never tried again by this process. The version that answers stays until a better one is ready.
"""

import logging
import threading
import time
from dataclasses import dataclass

from service.errors import FreshetError, VersionError
from service.metrics import ServingMetrics
from service.model.ranker import Ranker
from service.versions.directory import VersionDirectory
from service.versions.snapshot import Snapshot
from serving.engine import Engine, Served, Tables

log = logging.getLogger("serving.follow")

REASONS = ("missing", "truncated", "altered", "format")
"""What most refusals say, as labels of freshet_versions_refused_total; else damaged or model."""


@dataclass(frozen=True)
class Refused:
    """A version that this server will not load, and why."""

    number: int
    reason: str


class VersionFollower:
    """A thread that looks into the directory every `poll_seconds`."""

    def __init__(
        self,
        directory: VersionDirectory,
        engine: Engine,
        metrics: ServingMetrics,
        poll_seconds: float,
    ) -> None:
        self.refused: dict[int, Refused] = {}
        self._directory = directory
        self._engine = engine
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._served = -1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="versions", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def close(self) -> None:
        """Stop following; a version being loaded is finished first."""
        self._stop.set()
        self._thread.join()

    def look(self) -> Served | None:
        """Load the newest good version that is newer than the served one, and hand it over."""
        for number in sorted(self._directory.numbers(), reverse=True):
            if number <= self._served:
                return None
            if number not in self.refused and (served := self._load(number)):
                self._hand_over(served)
                return served
        return None

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except Exception:
                # Whatever it is (a directory that is away): the served version stays, look again.
                log.exception("looking for versions failed")
            self._stop.wait(self._poll_seconds)

    def _load(self, number: int) -> Served | None:
        started = time.monotonic()
        try:
            manifest = self._directory.manifest(number)
            ranker = Ranker(Snapshot.read(self._directory, number))
            ranker.warm()
        except (FreshetError, KeyError, ValueError) as error:
            # A version may be pruned while it is read; that is no fault of its own.
            if number in self._directory.numbers():
                self._refuse(number, error)
            return None
        fields = {"version": number, "seconds": round(time.monotonic() - started, 3)}
        log.info("version loaded", extra={"fields": fields})
        return Served(ranker, manifest)

    def _hand_over(self, served: Served) -> None:
        def swap(tables: Tables) -> None:
            tables.served = served

        self._engine.do(swap)
        self._served = served.number
        self._metrics.version.set(served.number)

    def _refuse(self, number: int, error: Exception) -> None:
        self._metrics.versions_refused_total.labels(reason(error)).inc()
        self.refused[number] = Refused(number, str(error))
        log.error("version refused", extra={"fields": {"version": number, "reason": str(error)}})


def reason(error: Exception) -> str:
    """The error as one of few metric labels; the log has its words."""
    if not isinstance(error, VersionError):
        return "model"
    return next((word for word in REASONS if word in str(error)), "damaged")
