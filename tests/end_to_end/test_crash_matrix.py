"""kill -9 between every two steps of a version: the end is bit for bit that of an uninterrupted
run, and every action was trained once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.commands.processes import ROOT, environment

SCRIPT = Path(__file__).with_name("dying_trainer.py")


def crashes(root: Path, first: int, every: int) -> list[dict[str, Any]]:
    paths = {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), str(root), str(first), str(every)],
        env=environment() | paths, capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


def check(found: list[dict[str, Any]], fewest: int) -> None:
    whole, *killed = found
    assert len(killed) >= fewest
    assert all(one["killed"] for one in killed)
    for one in killed:
        assert one["counters"] == whole["counters"], one["step"]
        assert one["digest"] == whole["digest"], one["step"]


def test_killed_after_some_steps_of_its_versions(tmp_path: Path) -> None:
    check(crashes(tmp_path, first=3, every=20), fewest=4)


@pytest.mark.long
def test_killed_after_every_step_of_its_versions(tmp_path: Path) -> None:
    check(crashes(tmp_path, first=0, every=1), fewest=75)
