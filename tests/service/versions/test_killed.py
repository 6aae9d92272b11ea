"""kill -9 between every two steps of a commit: the version is there whole, or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.versions import Checkpoint, VersionDirectory


@pytest.fixture(scope="module")
def crashes(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> list[dict[str, Any]]:
    script = Path(__file__).with_name("killed_commit.py")
    ran = subprocess.run(
        [sys.executable, str(script), str(tmp_path_factory.mktemp("killed"))],
        env={**os.environ, "PYTHONPATH": str(pytestconfig.rootpath)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_every_step_was_killed(crashes: list[dict[str, Any]]) -> None:
    assert len(crashes) == 9
    assert all(crash["killed"] for crash in crashes)


def test_whatever_step_it_died_after_the_newest_version_is_whole(
    crashes: list[dict[str, Any]],
) -> None:
    committed = False
    for crash in crashes:
        committed = committed or crash["step"].startswith("link")
        directory = VersionDirectory(crash["root"])
        assert directory.latest() == (2 if committed else 1), crash
        for number in directory.numbers():
            manifest = directory.verify(number)
            assert manifest.offsets == {"actions": {"0": 100 * number}}
            (checkpoint,) = Checkpoint.chain(directory, manifest)
            weights = checkpoint.tensors["weights"]
            assert weights.unique().tolist() == [number]
    assert committed


def test_the_next_trainer_goes_on_and_pruning_clears_what_is_left(
    crashes: list[dict[str, Any]], publish: Any
) -> None:
    for crash in crashes:
        directory = VersionDirectory(crash["root"])
        last = directory.latest()
        assert last is not None
        publish(directory, last + 1)
        directory.prune(keep=1)
        manifest = directory.verify(last + 1)
        assert directory.numbers() == [last + 1]
        assert set(directory._storage.names("data")) == set(manifest.files)
        assert Path(crash["root"], "LATEST").read_text() == f"{last + 1}\n"
