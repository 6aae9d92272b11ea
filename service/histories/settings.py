"""What is kept of each user, and for how long."""

from pydantic import Field, field_validator

from service.histories.leaving import FOREVER_MS
from service.settings import Section


class HistorySettings(Section):
    """Section [histories]."""

    ttl_seconds: float | None = Field(90 * 86_400, gt=0)
    capacity: int = Field(512, ge=64, le=16_384, description="events kept per user, a power of two")

    @field_validator("capacity")
    @classmethod
    def _doubles(cls, capacity: int) -> int:
        if capacity & (capacity - 1):
            raise ValueError("must be a power of two, such as 512")
        return capacity

    @property
    def ttl_ms(self) -> int:
        """Time-to-live in milliseconds."""
        return FOREVER_MS if self.ttl_seconds is None else int(self.ttl_seconds * 1000)
