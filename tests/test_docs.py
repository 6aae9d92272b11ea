"""The documentation names what exists: every setting and every metric."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from service.action_types import ActionType, ActionTypes
from service.histories.settings import HistorySettings
from service.intake_settings import IntakeSettings
from service.metrics import HistoryMetrics, ServingMetrics, TrainerMetrics
from service.model.settings import ModelSettings
from service.redis.settings import RedisSettings
from service.store.settings import CapSettings, SlotSettings
from service.streams import LocalStreamSettings
from service.streams.kafka.settings import KafkaSettings
from service.versions.settings import VersionsSettings
from serving.limits import LimitSettings
from serving.settings import ServingSettings
from trainer.gate_settings import GateSettings
from trainer.settings import TrainerSettings

DOCS = Path(__file__).parents[1] / "docs"
SECTIONS = {
    "actions": (ActionTypes, ActionType),
    "stream": (LocalStreamSettings,),
    "kafka": (KafkaSettings,),
    "intake": (IntakeSettings,),
    "histories": (HistorySettings,),
    "store": (CapSettings,),
    "store.item": (SlotSettings,),
    "model": (ModelSettings,),
    "trainer": (TrainerSettings,),
    "gate": (GateSettings,),
    "versions": (VersionsSettings,),
    "serving": (ServingSettings,),
    "redis": (RedisSettings,),
    "limits": (LimitSettings,),
}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_stands_under_its_section(section: str) -> None:
    page = (DOCS / "settings.md").read_text()
    text = page.split(f"## [{section}]")[1].split("\n## ")[0]
    for kind in SECTIONS[section]:
        missing = [name for name in _names(kind) if f"{name}`" not in text]
        assert not missing


@pytest.mark.parametrize("metrics", [TrainerMetrics, ServingMetrics, HistoryMetrics])
def test_every_metric_stands_in_the_operating_page(
    metrics: type[TrainerMetrics] | type[ServingMetrics] | type[HistoryMetrics],
) -> None:
    page = (DOCS / "operating.md").read_text()
    names = {family.name for family in metrics().registry.collect()}
    own = {name for name in names if not name.startswith("freshet_process")}
    assert [name for name in sorted(own) if name not in page] == []


def test_every_page_is_listed_in_the_readme() -> None:
    readme = (DOCS.parent / "README.md").read_text()
    assert [page.name for page in DOCS.glob("*.md") if f"docs/{page.name}" not in readme] == []


def _names(kind: type[BaseModel]) -> list[str]:
    return list(kind.model_fields)
