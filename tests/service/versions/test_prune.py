"""Pruning: what goes, what stays because a kept version or a running draft needs it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from service.errors import VersionError, VersionExists
from service.versions import VersionDirectory


def test_old_versions_go_and_what_is_shared_stays(
    any_directory: VersionDirectory, publish: Any
) -> None:
    for number in range(1, 6):
        publish(any_directory, number)
    assert any_directory.prune(keep=2) == [1, 2, 3]
    assert any_directory.numbers() == [4, 5]
    kept = {**any_directory.verify(4).files, **any_directory.verify(5).files}
    assert len(any_directory.manifest(5).histories) == 5
    assert set(any_directory._storage.names("data")) == set(kept)
    assert any_directory.prune(keep=2) == []


def test_nothing_to_prune_is_fine(any_directory: VersionDirectory) -> None:
    assert any_directory.prune(keep=3) == []


def test_no_version_at_all_is_never_what_is_kept(any_directory: VersionDirectory) -> None:
    with pytest.raises(ValueError, match="at least 1 version, not 0"):
        any_directory.prune(keep=0)


def test_a_draft_in_progress_keeps_its_files(
    any_directory: VersionDirectory, publish: Any, manifest_of: Any
) -> None:
    for number in (1, 2):
        publish(any_directory, number)
    with any_directory.begin(3) as draft:
        draft.write("checkpoint/state.safetensors", {"a": torch.ones(3)})
        any_directory.prune(keep=1)
        draft.commit(manifest_of(3))
    assert any_directory.verify(3)


def test_the_files_of_a_crashed_trainer_go_once_its_number_is_taken(
    any_directory: VersionDirectory, publish: Any
) -> None:
    publish(any_directory, 1)
    crashed = any_directory.begin(2)
    crashed.write("checkpoint/state.safetensors", {"a": torch.ones(3)})
    any_directory.prune(keep=5)
    assert any_directory._storage.names(crashed._folder)
    publish(any_directory, 2)
    any_directory.prune(keep=5)
    assert not any_directory._storage.names(crashed._folder)
    assert any_directory.verify(1)
    assert any_directory.verify(2)


def test_a_trainer_that_slept_through_prunes_cannot_commit_its_old_number(
    any_directory: VersionDirectory, publish: Any, manifest_of: Any
) -> None:
    asleep = any_directory.begin(1)
    asleep.write("checkpoint/state.safetensors", {"a": torch.ones(3)})
    for number in (1, 2, 3):
        publish(any_directory, number)
    any_directory.prune(keep=1)
    with pytest.raises(VersionExists):
        asleep.commit(manifest_of(1))
    assert any_directory.numbers() == [3]


@pytest.mark.parametrize(
    ("memory", "asleep_at"),
    [
        (False, "/state.safetensors"),
        (False, "sync folders"),
        (False, "/manifest.json"),
        (True, "/state.safetensors"),
        (True, "sync folders"),
    ],
)
def test_a_trainer_overtaken_within_its_commit_is_told(
    tmp_path: Path, publish: Any, manifest_of: Any, memory: bool, asleep_at: str
) -> None:
    url = f"memory:/{tmp_path}" if memory else str(tmp_path)
    others = VersionDirectory(url)

    def fall_asleep(step: str) -> None:
        if step.endswith(asleep_at) and not others.numbers():
            for number in (1, 2, 3):
                publish(others, number)
            others.prune(keep=1)

    with VersionDirectory(url, fall_asleep).begin(1) as draft:
        draft.write("checkpoint/state.safetensors", {"a": torch.ones(3)})
        with pytest.raises(VersionExists, match="version 3 is committed"):
            draft.commit(manifest_of(1))
    assert others.latest() == 3
    others.prune(keep=1)
    assert others.numbers() == [3]
    assert set(others._storage.names("data")) == set(others.verify(3).files)


def test_a_version_that_cannot_be_read_stops_pruning_before_anything_is_lost(
    tmp_path: Path, publish: Any
) -> None:
    directory = VersionDirectory(tmp_path)
    for number in (1, 2, 3):
        publish(directory, number)
    (tmp_path / "manifests/00000002.json").write_text("{")
    with pytest.raises(VersionError, match=r"00000002\.json is not a manifest"):
        directory.prune(keep=2)
    assert directory.verify(1)
    assert directory.verify(3)


def test_what_others_put_into_the_directory_stays(tmp_path: Path, publish: Any) -> None:
    directory = VersionDirectory(tmp_path)
    publish(directory, 1)
    publish(directory, 2)
    (tmp_path / "data" / "README").write_text("mine")
    directory.prune(keep=1)
    assert (tmp_path / "data" / "README").read_text() == "mine"


def test_pruning_leaves_no_empty_folders(tmp_path: Path, publish: Any) -> None:
    directory = VersionDirectory(tmp_path)
    with directory.begin(1) as draft:
        draft.write("checkpoint/a", {"a": torch.ones(1)})
    for number in (1, 2):
        publish(directory, number)
    directory.prune(keep=1)
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert all(any(folder.iterdir()) for folder in folders)
