"""What takes requests in: who may ask, what may be appended, and whom to ask for rankings."""

from pathlib import Path

from service.action_types import ActionTypes
from service.intake_settings import IntakeSettings
from service.metrics import ServingMetrics
from service.settings import Settings
from service.streams import Stream
from serving.backend import Backend
from serving.batches import Rules
from serving.guard import Guard
from serving.impressions import ImpressionLog
from serving.keys import Keyring
from serving.limits import LimitSettings, Spent
from serving.settings import ServingSettings


class Server:
    """Everything behind the routes. The HTTP application is built around it."""

    def __init__(
        self,
        data: Path,
        settings: Settings,
        core: Backend,
        stream: Stream,
        metrics: ServingMetrics,
        spent: Spent | None = None,
    ) -> None:
        """data: where the key file is. stream: what is appended to; closed with the server. spent:
        where rates are counted, by this process alone without it."""
        self.settings = settings.section("serving", ServingSettings)
        self.core, self.stream, self.metrics = core, stream, metrics
        self.guard = self._guard(data, settings.section("limits", LimitSettings), spent)
        self.impressions = ImpressionLog(
            stream, self.settings.impressions_queue, metrics.impressions_dropped_total
        )
        intake = settings.section("intake", IntakeSettings)
        types = settings.section("actions", ActionTypes)
        self.rules = Rules(tuple(types.codes), intake.max_future_seconds, intake.max_late_seconds)

    async def start(self) -> None:
        """Start the core and the impression log."""
        self.impressions.start()
        await self.core.start()

    def drain(self) -> None:
        """Say "not ready" from now on; requests are still answered."""
        self.core.drain()

    def close(self) -> None:
        """Stop in the order in which work flows: the core, the log."""
        self.core.close()
        self.impressions.close()
        self.stream.close()

    async def exposition(self) -> bytes:
        """All metrics as text, those that age brought up to date."""
        self.measure()
        return await self.core.exposition()

    def measure(self) -> None:
        """Bring up to date what changes by itself."""
        self.metrics.impressions_queued.set(self.impressions.waiting)

    def _guard(self, data: Path, limits: LimitSettings, spent: Spent | None) -> Guard:
        file = self.settings.keys
        spent = spent or Spent.here(limits)
        keyring = None if file is None else Keyring(data / file, limits, self.metrics, spent.keys)
        return Guard(keyring, limits, self.metrics, spent)
