"""Pruning: what goes, what stays because a kept version or a running draft needs it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from service.actions import RESERVED_KEY
from service.errors import VersionError, VersionExists
from service.versions import (
    Branch,
    Checkpoint,
    Pin,
    RowIds,
    SlotRows,
    Snapshot,
    VersionDirectory,
    fold,
)
from service.versions.decisions import decision_name


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


class Site:
    """Publishes as a trainer does: chains, a base every few versions, a step beside it."""

    def __init__(self, directory: VersionDirectory, manifest_of: Any) -> None:
        self.directory, self._manifest_of = directory, manifest_of
        self.newest: Any = None
        self.snapshots: dict[int, Snapshot] = {}

    def publish(self, number: int, base: bool = False, **changes: Any) -> None:
        parent, last = self.newest, self.newest and self.newest.number
        keys = torch.tensor([RESERVED_KEY, number, 100 + number % 3])
        rows = SlotRows(keys, torch.rand(3, 4), {}, RowIds.from_list(["", number, "x"]))
        gone = {"item": torch.tensor([number - 3])} if parent else {}
        delta = Snapshot(number, {}, {}, {"item": rows}, last, gone)
        whole = fold([self.snapshots[last], delta]) if parent else delta
        with self.directory.begin(number, changes.get("decisions", 0)) as draft:
            for name in parent.checkpoint if parent and not base else ():
                draft.share(name, parent.files[name])
            link = None if base else last
            Checkpoint({"n": torch.tensor(number)}, {}, number, link).write(draft)
            for name in parent.snapshot if parent and not base else ():
                draft.share(name, parent.files[name])
            if base and parent:
                whole.write(draft)
            step = delta.write_step(draft)
            more = {"snapshot_parent": last, "step": step} if parent else {}
            self.newest = draft.commit(self._manifest_of(number, parent=last, **more, **changes))
        self.snapshots[number] = whole

    def check(self, numbers: list[int]) -> None:
        """Whatever is left can be used, and nothing else is left."""
        assert self.directory.numbers() == numbers
        needed = set()
        for number in numbers:
            manifest = self.directory.verify(number)
            needed |= set(manifest.files)
            rows = Snapshot.read(self.directory, number).slots["item"]
            assert torch.equal(rows.keys_R, self.snapshots[number].slots["item"].keys_R)
            assert torch.equal(rows.vectors(), self.snapshots[number].slots["item"].vectors())
            assert Checkpoint.chain(self.directory, manifest)[-1].tensors["n"] == number
        assert set(self.directory._storage.names("data")) == needed


@pytest.fixture
def site(any_directory: VersionDirectory, manifest_of: Any) -> Site:
    return Site(any_directory, manifest_of)


def test_chains_keep_what_they_stand_on(site: Site) -> None:
    for number in range(1, 8):
        site.publish(number, base=number == 5)
    assert site.directory.prune(keep=2) == [1, 2, 3, 4, 5]
    site.check([6, 7])
    for number in (8, 9):
        site.publish(number, base=number == 8)
    site.directory.prune(keep=2)
    site.check([8, 9])


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_nothing_that_is_needed_goes(site: Site, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)

    def chance() -> float:
        return torch.rand((), generator=draw).item()

    generation = 0
    for number in range(1, 19):
        site.publish(
            number, chance() < 0.2, decisions=generation, held="bad" if chance() < 0.4 else None
        )
        live, servable = site.directory.live(), site.directory.servable()
        if chance() < 0.2:
            generation = site.directory.decide(Pin(number if chance() < 0.6 else None))
        elif chance() < 0.15:
            back = live[int(chance() * len(live))]
            generation = site.directory.decide(Branch(back))
            site.newest = site.directory.manifest(back)
        elif chance() < 0.5:
            keep, numbers = 1 + int(chance() * 3), site.directory.numbers()
            kept = {*numbers[-keep:], *live[-keep:], *servable[-keep:]}
            kept |= {site.directory.decisions().pinned} & set(numbers)
            assert site.directory.prune(keep) == sorted(set(numbers) - kept)
            site.check(sorted(kept))


def test_held_versions_do_not_push_out_the_one_that_is_served(site: Site) -> None:
    site.publish(1)
    site.publish(2)
    for number in range(3, 9):
        site.publish(number, held="its loss rose")
    assert site.directory.prune(keep=2) == [3, 4, 5, 6]
    site.check([1, 2, 7, 8])
    assert site.directory.target() == 2


def test_the_pinned_version_stays_until_it_is_not_pinned(site: Site) -> None:
    for number in range(1, 6):
        site.publish(number)
    site.directory.decide(Pin(2))
    assert site.directory.prune(keep=1) == [1, 3, 4]
    site.check([2, 5])
    site.directory.decide(Pin(None))
    assert site.directory.prune(keep=1) == [2]
    site.check([5])


def test_a_branch_can_be_resumed_from_however_much_was_abandoned(site: Site) -> None:
    for number in range(1, 8):
        site.publish(number, held="bad" if number == 2 else None)
    site.directory.decide(Branch(2))
    assert site.directory.prune(keep=1) == [3, 4, 5, 6]
    site.check([1, 2, 7])  # 7 keeps its number from being used again, servers go back to 1
    assert (site.directory.live(), site.directory.target()) == ([1, 2], 1)


def test_forgetting_spares_nothing_that_is_older(site: Site) -> None:
    for number in range(1, 7):
        site.publish(number, base=number == 4)
    site.directory.decide(Pin(2))
    assert site.directory.forget(5) == [1, 2, 3, 4]
    site.check([5, 6])
    assert site.directory.target() == 6
    assert site.directory.forget(5) == []
    with pytest.raises(ValueError, match="before 7 cannot be forgotten: no later one"):
        site.directory.forget(7)
    site.check([5, 6])


def test_forgetting_needs_to_know_what_is_left(site: Site) -> None:
    for number in (1, 2):
        site.publish(number)
    site.directory._storage.remove("manifests/00000002.json")
    site.directory._storage.write("manifests/00000002.json", b"{")
    with pytest.raises(VersionError, match=r"00000002\.json is not a manifest"):
        site.directory.forget(2)
    assert site.directory.verify(1)


def test_decisions_are_never_pruned_and_what_a_killed_decision_left_is(
    any_directory: VersionDirectory, publish: Any
) -> None:
    publish(any_directory, 1)
    any_directory.decide(Pin(1))
    any_directory._storage.write("data/00001001-aaaa/decision.json", b"half")
    publish(any_directory, 2)
    any_directory.prune(keep=1)
    assert any_directory._storage.names("decisions") == [decision_name(1)]
    assert "data/00001001-aaaa/decision.json" in any_directory._storage.names("data")
    publish(any_directory, 1001)
    any_directory.prune(keep=1)
    assert "data/00001001-aaaa/decision.json" not in any_directory._storage.names("data")
