"""The settings of all sections that decide what the histories in Redis are."""

from dataclasses import dataclass

from service.action_types import ActionTypes
from service.errors import SettingsError
from service.histories.settings import HistorySettings
from service.intake_settings import IntakeSettings
from service.redis.settings import RedisSettings, redis_of
from service.settings import Settings


@dataclass(frozen=True)
class Rules:
    """One of each section."""

    types: ActionTypes
    intake: IntakeSettings
    histories: HistorySettings
    redis: RedisSettings

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        """Raises SettingsError without section [redis]: then there is nothing to write."""
        redis = redis_of(settings)
        if redis is None:
            raise SettingsError(
                "the settings have no section [redis], nor the environment an address: histories "
                "then live in every server; add the section, or do not start this process"
            )
        return cls(
            settings.section("actions", ActionTypes),
            settings.section("intake", IntakeSettings),
            settings.section("histories", HistorySettings),
            redis,
        )
