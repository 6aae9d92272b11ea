"""`freshet store stats`: what the newest version says of memory."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.__main__ import app
from service.commands.folder import DataFolder
from service.commands.stats import StoreStats
from service.errors import InputError
from tests.trainer.workshop import Workshop, settings, told


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    workshop = Workshop(tmp_path, settings(store={"max_bytes": 10**9}))
    workshop.tell(told(300))
    return workshop


def test_it_tells_what_the_trainer_held(workshop: Workshop) -> None:
    state = workshop.train().teacher.state
    stats = json.loads(StoreStats.of(DataFolder(workshop.root)).to_json())
    assert stats["version"] == workshop.versions.numbers()[-1]
    assert stats["slots"]["item"]["rows"] == len(state.items) > 10
    assert stats["slots"]["item"]["bytes"] == state.item_parts
    assert stats["histories"]["users"] == len(state.histories) == 20
    assert stats["histories"]["events"] == state.histories.live_events
    assert stats["total_bytes"] == state.item_bytes + state.histories.nbytes
    assert stats["charged_bytes"] == state.budget.charged < stats["max_bytes"] == 10**9
    assert stats["resident_bytes"] > stats["total_bytes"]


def test_the_command_draws_a_table_or_prints_json(workshop: Workshop) -> None:
    workshop.train()
    data = ["--data", str(workshop.root)]
    drawn = CliRunner().invoke(app, ["store", "stats", *data])
    assert drawn.exit_code == 0
    assert "item: rows" in drawn.output
    assert "of 1,000,000,000 allowed" in drawn.output
    printed = CliRunner().invoke(app, ["store", "stats", "--json", *data])
    assert json.loads(printed.output)["histories"]["users"] == 20


def test_without_a_version_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `freshet train --data"):
        StoreStats.of(DataFolder(tmp_path))
