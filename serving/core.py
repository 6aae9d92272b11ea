"""What a server has once, however many processes take its requests in: tables and their threads."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from kernels.crew import Crew
from service.action_types import ActionTypes
from service.histories.local import LocalHistories
from service.histories.settings import HistorySettings
from service.intake_settings import IntakeSettings
from service.metrics import ServingMetrics
from service.model.readings import Readings
from service.redis.announcements import Listener
from service.redis.settings import redis_of
from service.settings import Settings
from service.streams import Stream
from service.versions.settings import versions_of
from serving import pins, scoring
from serving.computing import computing
from serving.engine import Engine, Tables, not_ready
from serving.follow import VersionFollower
from serving.fresh import HistoryFollower
from serving.items import ItemFollower
from serving.pages import Pages
from serving.problems import shutting_down
from serving.questions import Question, Ranking
from serving.remote import RemoteHistories
from serving.settings import ServingSettings
from serving.sources import HistorySource


class Core:
    """A `Backend` in this process. `data` holds `versions/`, which may be empty."""

    def __init__(
        self, data: Path, settings: Settings, stream: Stream, metrics: ServingMetrics
    ) -> None:
        """stream: what is followed; it belongs to whoever opened it."""
        self.settings = settings.section("serving", ServingSettings)
        self.actions = settings.section("actions", ActionTypes)
        self.intake = settings.section("intake", IntakeSettings)
        self.metrics, self.stream = metrics, stream
        self.directory = versions_of(settings, data)
        kept = settings.section("histories", HistorySettings)
        self.readings = Readings(
            self.settings.reading_bytes,
            lambda outcome: self.metrics.readings_total.labels(outcome).inc(),
        )
        crew = Crew(self.settings.threads)
        tables = Tables(
            LocalHistories(kept),
            readings=self.readings,
            crew=crew,
            pages=Pages(self.settings.pages_bytes, self.settings.pages_seconds),
        )
        self.engine = Engine(tables, self.settings.queue_limit, self.settings.deadline_seconds)
        self.follower = VersionFollower(
            self.directory, self.engine, self.metrics, self.settings.poll_seconds, self.readings,
            self.settings.dense, computing(self.settings), crew,
        )  # fmt: skip
        self.redis = redis_of(settings)
        self.histories = self._source(kept)
        self.listeners = [] if self.redis is None else [Listener(self.redis, self._hear)]
        self.items = ItemFollower(
            self.stream, self.engine, self.metrics, self.actions, self.intake, self.settings
        )
        self._draining = False

    def _source(self, kept: HistorySettings) -> HistorySource:
        """Histories of this process, or those in Redis where the settings have it."""
        directory, stream, metrics = self.directory, self.stream, self.metrics
        if self.redis is not None:
            remote = RemoteHistories(
                directory, stream, self.redis, kept, metrics, self.settings, self._forget
            )
            self.engine.read_elsewhere(remote.read)
            return remote
        return HistoryFollower(
            directory, stream, self.engine, metrics, self.actions, self.intake, self.settings
        )

    async def start(self) -> None:
        """Start every thread; ready is once a version is warm and the histories are there."""
        self.engine.start()
        self.histories.start()
        self.items.start()
        self.follower.start()
        for listener in self.listeners:
            listener.start()

    def drain(self) -> None:
        """Say "not ready" from now on; requests are still answered."""
        self._draining = True

    def close(self) -> None:
        """Stop in the order in which work flows: followers, then the engine."""
        self._draining = True
        for listener in self.listeners:
            listener.close()
        self.follower.close()
        self.histories.close()
        self.items.close()
        self.engine.close()

    def ask(self, question: Question, since: float | None = None) -> "asyncio.Future[Ranking]":
        """As Backend.ask; `since` as Engine.ask."""
        return self.engine.ask(scoring.job(question), since)

    def appended(self, topic: str) -> None:
        """As Backend.appended."""
        (self.items if topic == "items" else self.histories).wake()

    @property
    def ready(self) -> bool:
        """Whether balancers should send requests here."""
        caught_up = self.histories.caught_up.is_set() and self.items.caught_up.is_set()
        return self.engine.served is not None and caught_up and not self._draining

    async def require_ready(self) -> None:
        """As Backend.require_ready."""
        if self._draining:
            raise shutting_down()
        if not self.ready:
            raise not_ready()

    async def versions(self) -> dict[str, Any]:
        """As Backend.versions."""
        return await asyncio.to_thread(self._versions)

    async def activate(self, number: int) -> dict[str, int | None]:
        """As Backend.activate."""
        generation = await asyncio.to_thread(pins.activate, self.directory, number)
        return self._decided(generation, number)

    async def unpin(self) -> dict[str, int | None]:
        """As Backend.unpin."""
        return self._decided(await asyncio.to_thread(pins.unpin, self.directory), None)

    async def exposition(self) -> bytes:
        """All metrics of this process as text."""
        self.measure()
        return self.metrics.text()

    def measure(self) -> None:
        """Bring up to date what changes by itself."""
        metrics = self.metrics
        if (served := self.engine.served) is not None:
            metrics.version_age_seconds.set(served.version.age_seconds(time.time()))
        metrics.ready.set(self.ready)
        metrics.catalogue_items.set(len(self.engine.catalogue))
        metrics.catalogue_unseen_items.set(self.engine.catalogue.unseen)
        metrics.engine_waiting.set(self.engine.waiting)
        metrics.readings_bytes.set(self.readings.nbytes)

    def _versions(self) -> dict[str, Any]:
        served, standing = self.engine.served, self.follower.standing
        refused = {one.number: one.reason for one in self.follower.refusals.all()}
        return {
            "served": served and served.describe(time.time()),
            "pinned": standing.pinned,
            "generation": min(standing.generation, self.histories.obeyed),
            "available": self.directory.numbers(),
            "held": _reasons(standing.held),
            "refused": _reasons(refused),
            "compute": {
                "rows": served.rows if served else None,
                "dense": served.ranker.dense if served else None,
                "device": str(served.ranker.device) if served else None,
                "threads": torch.get_num_threads(),
            },
        }

    def _hear(self) -> None:
        """A version was announced: look for it now."""
        self.metrics.announcements_heard_total.inc()
        self.follower.wake()

    def _forget(self, user_keys: Iterable[int]) -> None:
        """Drop what versions have read of erased users."""
        self.engine.do(lambda tables: tables.readings.drop(user_keys))

    def _decided(self, generation: int, pinned: int | None) -> dict[str, int | None]:
        self.follower.wake()
        return {"generation": generation, "pinned": pinned}


def _reasons(reasons: Mapping[int, str]) -> list[dict[str, int | str]]:
    return [{"number": number, "reason": reason} for number, reason in reasons.items()]
