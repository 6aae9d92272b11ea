"""Settings of slots and of the cap."""

import pytest
from pydantic import ValidationError

from service.errors import SettingsError
from service.settings import Section, Settings
from service.store.settings import CapSettings, SlotSettings


@pytest.mark.parametrize(
    "wrong",
    [
        {"dim": 0},
        {"min_count": 0},
        {"ttl_seconds": -1},
        {"ttl_seconds": float("inf")},
        {"probability": 0},
        {"probability": 1.1},
        {"optimizer": "lion"},
        {"waiting_seconds": 0},
        {"max_waiting": 1},
        {"half_life_seconds": 0},
        {"grace_seconds": -1},
        {"max_rows": 5},
    ],
)
def test_settings_outside_their_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SlotSettings.model_validate(wrong)


def test_two_rules_of_admission_exclude_each_other_by_name() -> None:
    class Store(Section):
        item: SlotSettings = SlotSettings()

    section = {"item": {"min_count": 2, "probability": 0.5}}
    with pytest.raises(SettingsError, match=r"store.item.*probability = 0.5 and min_count = 2"):
        Settings({"store": section}).section("store", Store)
    assert SlotSettings(probability=0.5).min_count == 1


@pytest.mark.parametrize("wrong", [{"max_bytes": 0}, {"when_full": "panic"}])
def test_a_cap_outside_its_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CapSettings.model_validate(wrong)
