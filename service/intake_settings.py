"""Section [intake]: which records are read, and how far from now they may be."""

from pydantic import Field

from service.settings import Section


class IntakeSettings(Section):
    """Section [intake]."""

    topics: tuple[str, ...] = ("actions", "impressions", "items")
    max_future_seconds: float = Field(300, ge=0, description="event time after append time")
    max_late_seconds: float = Field(30 * 86_400, ge=0, description="event time before append time")
    idle_ms: int = Field(200, ge=0, description="how long an empty partition holds the others up")
