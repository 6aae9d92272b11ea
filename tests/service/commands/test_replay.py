"""Replaying files: the real trainer behind the real command."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from service.__main__ import app
from service.commands.feed import TOPICS, World, WorldSettings
from service.commands.replay import CORES, replay_settings, seconds_of, speed_of
from service.errors import InputError
from service.streams import LocalStream

ITEMS = [f"{topic}-{n}" for topic in TOPICS for n in range(1, 7)]
SMALL = """
[model]
dim = 8
qk_width = 4
v_width = 4
window = 16
[histories]
capacity = 64
"""


def actions_file(path: Path, count: int, seed: int = 0) -> Path:
    """A file of `count` actions of a small world, one second apart, and one bad row."""
    world = World(WorldSettings(seed=seed, users=50, items_per_topic=6))
    rows = (f"{user},{item},{at},click" for at, (user, item) in enumerate(world.draw(count), 1000))
    path.write_text("\n".join(["user_id,item_id,timestamp,action", *rows, "u1,i1,soon,click"]))
    return path


def replay(*arguments: object) -> Result:
    """Run `freshet replay` in this process; trainer and all."""
    return CliRunner().invoke(app, ["replay", *map(str, arguments)])


def report_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def test_a_file_is_appended_trained_published_and_reported(tmp_path: Path) -> None:
    file, data = actions_file(tmp_path / "a.csv", 3_000), tmp_path / "data"
    (tmp_path / "small.toml").write_text(SMALL)
    options = [file, "--data", data, "--json"]
    report = report_of(
        replay(*options, "--settings", tmp_path / "small.toml", "--publish-every", "10m")
    )
    assert report["read"] == 3_001
    assert report["rejected_rows"] == {"time is not a number": 1}
    assert report["outcomes"] == {"trained": 3_000, "skipped": 0, "history only": 0}
    assert report["version"] >= 3  # a block holds 512 s, a version at least 600: every second block
    assert report["histories_users"] == 50
    assert report["memory_bytes"] == report["histories_bytes"] + report["slots"]["item"]["bytes"]
    assert report["serve"] == f"freshet serve --data {data}"
    stream = LocalStream(data / "stream")
    first = stream.read("actions", 0, 0, 1)[0]
    assert first.append_ms == 1_000_000
    assert stream.bounds("actions", 0) == (0, 3_000)
    stream.close()

    refused = replay(*options)
    assert refused.exit_code == 1
    assert "--resume" in refused.stderr
    other = actions_file(tmp_path / "b.csv", 3_000, seed=1)
    assert "not the first of this file" in replay(other, *options[1:], "--resume").stderr
    assert "not the first of this file" in replay(*options, "--resume", "--limit", 100).stderr


def test_an_interrupted_replay_resumes_and_trains_every_action_once(tmp_path: Path) -> None:
    file, data = actions_file(tmp_path / "a.csv", 2_000), tmp_path / "data"
    (tmp_path / "small.toml").write_text(SMALL)
    options = [str(file), "--data", str(data)]
    slow = [*options, "--speed", "200x", "--settings", str(tmp_path / "small.toml")]
    running = subprocess.Popen(
        [sys.executable, "-m", "service", "replay", *slow], stderr=subprocess.PIPE
    )
    assert running.stderr is not None
    with running.stderr:
        deadline = time.monotonic() + 60
        while not (data / "logs" / "trainer.log").exists():
            assert time.monotonic() < deadline
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.05)
        time.sleep(1.0)
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130, running.stderr.read()
    report = report_of(replay(*options, "--resume", "--json"))
    assert report["outcomes"]["trained"] == 2_000


def test_a_file_of_items_is_known_before_the_first_action(tmp_path: Path) -> None:
    file, data = actions_file(tmp_path / "a.csv", 600), tmp_path / "data"
    (tmp_path / "small.toml").write_text(SMALL)
    rows = [f"{item},{item.split('-')[0]}|all,{n % 2}" for n, item in enumerate(ITEMS)]
    items = tmp_path / "items.csv"
    items.write_text("\n".join(["item_id,groups,hidden", *rows, ",nothing,"]))
    options = [file, "--data", data, "--items", items, "--categories-column", "groups"]
    result = replay(*options, "--settings", tmp_path / "small.toml", "--json")
    assert report_of(result)["outcomes"]["trained"] == 600
    assert f"{items}: 1 rows left out: item is empty" in result.stderr
    [*_, newest] = sorted((data / "versions" / "manifests").glob("*.json"))
    manifest = json.loads(newest.read_text())
    assert manifest["offsets"]["items"] == {"0": len(ITEMS)}
    assert manifest["counters"]["items"] == len(ITEMS)
    with closing(LocalStream(data / "stream")) as stream:
        first = json.loads(stream.read("items", 0, 1, 1)[0].payload)
    assert first == {"item": ITEMS[1], "at": 1000.0, "categories": ["jazz", "all"], "hidden": True}
    assert report_of(replay(*options, "--resume", "--json"))["outcomes"]["trained"] == 600
    refused = replay(*options, "--resume", "--speed", "9x")
    assert refused.exit_code == 1


def test_resuming_nothing_is_refused(tmp_path: Path) -> None:
    refused = replay(actions_file(tmp_path / "a.csv", 10), "--data", tmp_path / "no", "--resume")
    assert refused.exit_code == 1
    assert "holds nothing to resume" in refused.stderr


def test_a_missing_file_is_one_line_and_status_1(tmp_path: Path) -> None:
    result = replay(tmp_path / "no.csv", "--data", tmp_path / "data")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: action file")
    assert not (tmp_path / "data").exists()


def test_durations_and_speeds_are_read() -> None:
    assert [seconds_of(text) for text in ("30s", "10m", "1h", "2d", "1.5h")] == [
        30, 600, 3600, 172_800, 5400
    ]  # fmt: skip
    assert [speed_of(text) for text in ("max", "60x", "0.5")] == [math.inf, 60, 0.5]
    for wrong in ("1 h", "h", "-1s", ""):
        with pytest.raises(InputError, match="like 30s"):
            seconds_of(wrong)
    for wrong in ("fast", "0x", "-1x"):
        with pytest.raises(InputError, match="like 60x"):
            speed_of(wrong)


def test_a_settings_file_wins_over_what_a_replay_implies(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("[actions.types.hide]\npositive = false\n[trainer]\npublish_seconds = 60.0\n")
    settings = replay_settings(path, ["click", "hide"], "1h")
    assert settings["actions"]["types"] == {
        "click": {"positive": True, "weight": 1.0}, "hide": {"positive": False, "weight": 1.0}
    }  # fmt: skip
    trainer = {"publish_clock": "event", "publish_seconds": 60.0, "threads": CORES}
    assert settings["trainer"] == trainer
    assert settings["stream"] == {"partitions": 1}


@pytest.mark.long
@pytest.mark.skipif(
    "FRESHET_DATA" not in os.environ, reason="FRESHET_DATA does not name the real data"
)
def test_memory_of_a_real_replay_is_rows_times_bytes(tmp_path: Path) -> None:
    file = Path(os.environ["FRESHET_DATA"]) / "ml-100k.csv.gz"
    report = report_of(
        replay(file, "--data", tmp_path / "data", "--json", "--publish-every", "30d")
    )
    assert report["outcomes"]["trained"] == 100_000
    assert report["slots"]["item"]["rows"] == 1_682
    assert np.isclose(report["histories_users"], 943)
