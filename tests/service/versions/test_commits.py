"""Commits: what stands after one, and what two trainers may do to each other."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from service.errors import VersionError, VersionExists
from service.versions import VersionDirectory


def test_what_was_committed_is_read_back(
    any_directory: VersionDirectory, publish: Any, manifest_of: Any
) -> None:
    committed = publish(
        any_directory, 1, metrics={"loss": 0.5}, counters={"trained": 12, "rate": 0.5}
    )
    read = any_directory.verify(1)
    assert read == committed
    assert any_directory.numbers() == [1]
    assert read.counters == {"trained": 12, "rate": 0.5}
    tensors = any_directory.read(1, read.histories[0])
    assert torch.equal(tensors["item"], torch.arange(1))


def test_an_empty_directory_has_no_versions(any_directory: VersionDirectory) -> None:
    assert any_directory.numbers() == []
    assert any_directory.latest() is None
    with pytest.raises(VersionError, match=r"manifests/00000001\.json is missing"):
        any_directory.manifest(1)


def test_a_file_url_is_a_local_directory(tmp_path: Path, publish: Any) -> None:
    publish(VersionDirectory(f"file://{tmp_path}"), 1)
    assert VersionDirectory(str(tmp_path)).verify(1).number == 1


def test_nothing_is_visible_before_the_commit(
    any_directory: VersionDirectory, publish: Any, manifest_of: Any
) -> None:
    publish(any_directory, 1)
    draft = any_directory.begin(2)
    draft.write("checkpoint/state.safetensors", {"a": torch.ones(3)})
    assert any_directory.latest() == 1
    draft.commit(manifest_of(2))
    assert any_directory.latest() == 2


@pytest.mark.parametrize("hint", [None, b"", b"1\n", b"99999999\n", b"\xff\x00garbage"])
def test_a_missing_stale_or_garbled_hint_does_not_matter(
    tmp_path: Path, publish: Any, hint: bytes | None
) -> None:
    directory = VersionDirectory(tmp_path)
    for number in (1, 2, 3):
        publish(directory, number)
    assert (tmp_path / "LATEST").read_text() == "3\n"
    (tmp_path / "LATEST").unlink()
    if hint is not None:
        (tmp_path / "LATEST").write_bytes(hint)
    assert directory.latest() == 3
    publish(directory, 4)
    assert (tmp_path / "LATEST").read_text() == "4\n"


def test_numbers_may_outgrow_eight_digits(directory: VersionDirectory, publish: Any) -> None:
    publish(directory, 99_999_999)
    publish(directory, 100_000_000)
    assert directory.numbers() == [99_999_999, 100_000_000]
    assert directory.prune(keep=1) == [99_999_999]
    assert directory.verify(100_000_000).parent == 99_999_999


def test_files_that_are_no_manifests_are_not_versions(tmp_path: Path, publish: Any) -> None:
    directory = VersionDirectory(tmp_path)
    publish(directory, 1)
    for name in ("00000002.json.tmp", "2.json", "notes.txt", "00000003.json~"):
        (tmp_path / "manifests" / name).write_text("{}")
    assert directory.numbers() == [1]


def test_a_trainer_that_lost_the_race_is_told_and_leaves_nothing(
    any_directory: VersionDirectory, publish: Any, manifest_of: Any
) -> None:
    with any_directory.begin(1) as late:
        late.write("checkpoint/state.safetensors", {"a": torch.ones(3)})
        first = publish(any_directory, 1)
        with pytest.raises(
            VersionExists, match=r"version 1 is committed .* another trainer is ahead"
        ):
            late.commit(manifest_of(1))
    assert any_directory.verify(1) == first
    assert set(any_directory._storage.names("data")) == set(first.files)
    with pytest.raises(
        VersionExists, match=r"version 1 is committed in .* where 0 should be the newest"
    ):
        any_directory.begin(1)


def test_of_many_trainers_that_commit_at_once_one_wins(
    any_directory: VersionDirectory, manifest_of: Any
) -> None:
    trainers = 12
    barrier = threading.Barrier(trainers)
    outcomes: list[int | str] = []

    def train(seed: int) -> None:
        with any_directory.begin(1) as draft:
            draft.write("checkpoint/state.safetensors", {"seed": torch.tensor(seed)})
            barrier.wait()
            try:
                draft.commit(manifest_of(1, block=seed))
                outcomes.append(seed)
            except VersionExists:
                outcomes.append("lost")

    threads = [threading.Thread(target=train, args=(seed,)) for seed in range(trainers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("lost") == trainers - 1
    winner = next(outcome for outcome in outcomes if outcome != "lost")
    manifest = any_directory.verify(1)
    assert manifest.block == winner
    assert any_directory.read(1, manifest.checkpoint[0])["seed"] == winner
    assert set(any_directory._storage.names("data")) == set(manifest.files)


def test_a_commit_whose_answer_was_lost_finds_itself_committed(
    any_directory: VersionDirectory, publish: Any, manifest_of: Any
) -> None:
    with any_directory.begin(1) as draft:
        draft.write("checkpoint/state.safetensors", {"a": torch.ones(3)})
        committed = draft.commit(manifest_of(1))
        draft._create(committed.encode())
    assert any_directory.verify(1) == committed


def test_the_race_is_lost_at_the_manifest_too(
    any_directory: VersionDirectory, publish: Any, manifest_of: Any
) -> None:
    late = any_directory.begin(1)
    publish(any_directory, 1)
    with pytest.raises(VersionExists, match="another trainer is ahead"), late:
        late._create(manifest_of(1).encode())
    assert any_directory.verify(1)


def test_a_draft_that_fails_removes_its_files(any_directory: VersionDirectory) -> None:
    def train() -> None:
        with any_directory.begin(1) as draft:
            draft.write("checkpoint/state.safetensors", {"a": torch.ones(3)})
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        train()
    assert any_directory._storage.names("data") == []


def test_equal_state_makes_equal_files(any_directory: VersionDirectory, publish: Any) -> None:
    first, second = publish(any_directory, 1), publish(any_directory, 2)
    assert first.files[first.checkpoint[0]] != second.files[second.checkpoint[0]]
    with any_directory.begin(3) as draft:
        file = any_directory.open(first, first.snapshot[0])
        shuffled = dict(reversed(file.tensors.items())), dict(reversed(file.metadata.items()))
        assert draft.write("snapshot/again", *shuffled) == first.files[first.snapshot[0]]


@pytest.mark.parametrize(
    "name",
    ["", "checkpoint", "/checkpoint/a", "checkpoint/../../a", "checkpoint//a", "checkpoint/a\\b",
     "checkpoint/.hidden", "checkpoint/a\0", "else/a", "checkpoint/", "checkpoint/a b"],
)  # fmt: skip
def test_a_name_that_could_leave_the_draft_is_refused(
    any_directory: VersionDirectory, name: str
) -> None:
    draft = any_directory.begin(1)
    with pytest.raises(ValueError, match="cannot hold the file"):
        draft.write(name, {"a": torch.ones(1)})


def test_a_name_is_written_or_shared_once(any_directory: VersionDirectory, publish: Any) -> None:
    parent = publish(any_directory, 1)
    segment = parent.histories[0]
    with any_directory.begin(2) as draft:
        draft.write("histories/a", {"a": torch.ones(1)})
        with pytest.raises(ValueError, match="a name is used once"):
            draft.write("histories/a", {"a": torch.ones(1)})
        draft.share(segment, parent.files[segment])
        for name in (segment, "LATEST", "data/00000001-x/checkpoint", "data/../histories/a"):
            with pytest.raises(ValueError, match="cannot hold the file"):
                draft.share(name, parent.files[segment])


def test_a_manifest_of_another_number_is_not_committed(
    directory: VersionDirectory, manifest_of: Any
) -> None:
    with pytest.raises(ValueError, match="manifest 3 cannot commit draft 2"):
        directory.begin(2).commit(manifest_of(3))


def test_a_version_of_shared_files_alone_can_be_committed(
    any_directory: VersionDirectory, publish: Any, manifest_of: Any
) -> None:
    parent = publish(any_directory, 1)
    with any_directory.begin(2) as draft:
        for name, entry in parent.files.items():
            draft.share(name, entry)
        draft.commit(manifest_of(2))
    assert any_directory.prune(keep=1) == [1]
    assert any_directory.verify(2).files == parent.files


def test_every_change_is_told_and_the_manifest_is_linked_after_all_data(
    tmp_path: Path, publish: Any
) -> None:
    steps: list[str] = []
    publish(VersionDirectory(tmp_path, steps.append), 1)
    kinds = [step.split("-")[0] for step in steps]
    assert kinds == [
        "write data/00000001", "write data/00000001", "write data/00000001", "sync folders",
        "write data/00000001", "link manifests/00000001.json", "sync folders",
        "remove data/00000001", "write data/00000001", "replace LATEST",
    ]  # fmt: skip
