"""Chains on disk: bases, deltas and steps come back, and every damage is refused by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from service.actions import RESERVED_KEY
from service.errors import VersionError
from service.versions import (
    Checkpoint,
    FileEntry,
    Manifest,
    RowIds,
    SlotRows,
    Snapshot,
    VersionDirectory,
    fold,
)

GOLDEN_1 = Path(__file__).parent / "golden" / "format-1"
ManifestOf = Callable[..., Manifest]
Tensors = dict[str, torch.Tensor]


def rows(keys: list[int], width: int = 4) -> SlotRows:
    every = torch.tensor([RESERVED_KEY, *keys])
    return SlotRows(every, torch.rand(len(every), width), {}, RowIds.from_list(["", *keys]))


def snapshot(number: int, parent: int | None, keys: list[int], gone: list[int]) -> Snapshot:
    torch.manual_seed(number)
    dense = {"w": torch.full((3, 5), float(number))} if parent is None else {}
    removed = {} if parent is None else {"item": torch.tensor(gone, dtype=torch.int64)}
    return Snapshot(number, {}, dict(dense), {"item": rows(keys)}, parent, removed, 10 * number)


PARTS = [
    snapshot(1, None, [1, 2, 3], []),
    snapshot(2, 1, [2, 4], [3]),
    snapshot(3, 2, [3], [1, 4]),
]


def commit(
    directory: VersionDirectory, manifest_of: ManifestOf, link: Snapshot, **changes: Any
) -> Manifest:
    """A version whose chains are the parent's and one more link."""
    with directory.begin(link.number) as draft:
        if link.parent is not None:
            parent = directory.manifest(link.parent)
            for name in (*parent.checkpoint, *parent.snapshot):
                draft.share(name, parent.files[name])
        state = {"state": torch.tensor(link.number)}
        Checkpoint(state, {"n": link.number}, link.number, link.parent).write(draft)
        link.write(draft)
        return draft.commit(manifest_of(link.number, snapshot_parent=link.parent, **changes))


READ: dict[str, Callable[[VersionDirectory, Manifest], object]] = {
    "checkpoint": Checkpoint.chain,
    "snapshot": lambda directory, manifest: Snapshot.read(directory, manifest.number),
}


@pytest.fixture
def chain(any_directory: VersionDirectory, manifest_of: ManifestOf) -> list[Manifest]:
    return [commit(any_directory, manifest_of, link) for link in PARTS]


def same(a: Snapshot, b: Snapshot) -> bool:
    first, second = a.slots["item"], b.slots["item"]
    assert (a.number, a.parent, a.at_ms, a.removed) == (b.number, b.parent, b.at_ms, b.removed)
    assert torch.equal(a.weights()["w"], b.weights()["w"])
    assert list(first.ids or []) == list(second.ids or [])
    assert torch.equal(first.vectors(), second.vectors())
    return torch.equal(first.keys_R, second.keys_R)


def test_a_chain_is_read_as_what_its_parts_fold_to(
    any_directory: VersionDirectory, chain: list[Manifest]
) -> None:
    for n in (1, 2, 3):
        assert same(Snapshot.read(any_directory, n), fold(PARTS[:n]))
        assert len(chain[n - 1].snapshot) == len(chain[n - 1].checkpoint) == n
    assert Snapshot.read(any_directory, 3).slots["item"].keys_R[1:].tolist() == [2, 3]
    links = Checkpoint.chain(any_directory, chain[2])
    assert [(c.number, c.parent, c.meta["n"]) for c in links] == [
        (1, None, 1),
        (2, 1, 2),
        (3, 2, 3),
    ]
    assert [int(c.tensors["state"]) for c in links] == [1, 2, 3]


def test_one_file_is_read_as_it_is(any_directory: VersionDirectory, chain: list[Manifest]) -> None:
    delta = Snapshot.read_file(any_directory, chain[2], chain[2].snapshot[1])
    assert (delta.number, delta.parent, delta.at_ms, delta.dense) == (2, 1, 20, {})
    assert delta.removed["item"].tolist() == [3]
    assert torch.equal(delta.slots["item"].vectors(), PARTS[1].slots["item"].vectors())
    with pytest.raises(VersionError, match="version 3 has no file 'data/else'"):
        Snapshot.read_file(any_directory, chain[2], "data/else")


def test_a_step_beside_a_new_base_is_no_link_of_its_chain(
    any_directory: VersionDirectory, chain: list[Manifest], manifest_of: ManifestOf
) -> None:
    last = snapshot(4, 3, [9], [2])
    with any_directory.begin(4) as draft:
        fold([*PARTS, last]).write(draft)
        step = last.write_step(draft)
        manifest = draft.commit(manifest_of(4, snapshot_parent=3, step=step))
    assert any_directory.verify(4) == manifest
    assert manifest.snapshot == [name for name in manifest.files if name != step]
    assert same(Snapshot.read(any_directory, 4), fold([*PARTS, last]))
    delta = Snapshot.read_file(any_directory, manifest, step)
    assert same(fold([Snapshot.read(any_directory, 3), delta]), fold([*PARTS, last]))


def test_a_step_may_be_the_last_of_its_chain(
    any_directory: VersionDirectory, chain: list[Manifest], manifest_of: ManifestOf
) -> None:
    last = snapshot(4, 3, [9], [2])
    with any_directory.begin(4) as draft:
        for name in chain[2].snapshot:
            draft.share(name, chain[2].files[name])
        step = last.write_step(draft)
        manifest = draft.commit(manifest_of(4, snapshot_parent=3, step=step))
    assert manifest.snapshot == [*chain[2].snapshot, step]
    assert same(Snapshot.read(any_directory, 4), fold([*PARTS, last]))


@pytest.mark.parametrize(
    ("order", "reason", "at"),
    [
        ([1, 2], "changes version 1, and no base comes before it", 1),
        ([0, 2], "changes version 2 and stands after version 1: deltas between are missing", 2),
        ([0, 2, 1], "changes version 2 and stands after version 1", 2),
        ([0, 1], "the last of its chain, is of version 2, not of 3", 1),
        ([0], "the last of its chain, is of version 1, not of 3", 0),
    ],
)
def test_a_chain_that_is_not_whole_is_refused_with_the_link(
    any_directory: VersionDirectory, chain: list[Manifest], order: list[int], reason: str, at: int
) -> None:
    for part in ("checkpoint", "snapshot"):
        names = chain[2].part(part)
        forged = msgspec.structs.replace(chain[2], **{part: [names[one] for one in order]})
        any_directory._storage.remove("manifests/00000003.json")
        any_directory._storage.write("manifests/00000003.json", forged.encode())
        with pytest.raises(VersionError, match=reason) as refusal:
            READ[part](any_directory, forged)
        assert names[at] in str(refusal.value)


def test_every_link_is_checked_to_the_byte(
    directory: VersionDirectory, manifest_of: ManifestOf
) -> None:
    for link in PARTS:
        manifest = commit(directory, manifest_of, link)
    for part, read in READ.items():
        for name in manifest.part(part):
            path = Path(directory.url, name)
            whole = path.read_bytes()
            flipped = whole[:-1] + bytes([whole[-1] ^ 1])
            for damaged, words in ((whole[:-1], "is truncated"), (flipped, "was altered")):
                path.write_bytes(damaged)
                with pytest.raises(VersionError, match=f"{name} {words}"):
                    read(directory, manifest)
            path.write_bytes(whole)


class Written:
    """In the place of a draft: keeps what is written, for a test to damage it."""

    def write(self, name: str, tensors: Tensors, metadata: dict[str, Any]) -> None:
        self.name, self.tensors, self.metadata = name, dict(tensors), metadata


def altered(name: str, tensor: torch.Tensor) -> Callable[[Written], None]:
    return lambda file: file.tensors.update({name: tensor})


def told(**facts: object) -> Callable[[Written], None]:
    return lambda file: file.metadata.update(facts)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (altered("slots/item/removed", torch.tensor([3, 3])), "'item': removed keys repeat"),
        (
            altered("slots/item/removed", torch.tensor([RESERVED_KEY])),
            "'item': the unknown row is among the removed keys",
        ),
        (altered("slots/item/removed", torch.tensor([3.0])), "removed is torch.float32"),
        (altered("slots/item/removed", torch.tensor(3)), r"removed is torch.int64 \[\] where"),
        (altered("slots/item/keys", torch.tensor([RESERVED_KEY, 2, 2])), "keys repeat"),
        (altered("slots/item/values", torch.full((3, 4), torch.nan)), "values has NaN"),
        (altered("slots/else/removed", torch.tensor([3])), "'else': tensor 'keys' is missing"),
        (told(parent=2), "takes version 2 to 2, which is not after it"),
        (told(parent=-1), "takes version -1 to 2"),
        (told(parent=None), "has no 'parent' number in its header but None"),
        (told(number="2"), "has no 'number' number in its header but '2'"),
        (told(kind="snapshot"), "a base has removed keys"),
        (told(kind="checkpoint-delta"), "is of kind 'checkpoint-delta', not 'snapshot' or"),
        (told(format=9), "has format 9, this release reads formats 1 to 2"),
    ],
)
def test_a_delta_that_is_not_whole_is_refused_with_its_file(
    directory: VersionDirectory, manifest_of: ManifestOf, damage: Any, reason: str
) -> None:
    first = commit(directory, manifest_of, PARTS[0])
    whole = Written()
    PARTS[1].write(whole)
    damage(whole)
    with directory.begin(2) as draft:
        draft.share(first.snapshot[0], first.files[first.snapshot[0]])
        draft.write(whole.name, whole.tensors, whole.metadata)
        manifest = draft.commit(manifest_of(2))
    with pytest.raises(VersionError, match=reason) as refusal:
        Snapshot.read(directory, 2)
    assert manifest.snapshot[1] in str(refusal.value)


def test_a_delta_that_does_not_fit_its_base_is_refused_with_its_file(
    directory: VersionDirectory, manifest_of: ManifestOf
) -> None:
    commit(directory, manifest_of, PARTS[0])
    wide = replace(PARTS[1], slots={"item": rows([2, 4], width=6)})
    manifest = commit(directory, manifest_of, wide)
    with pytest.raises(VersionError, match=r"does not fit the base of .*'width': 6") as refusal:
        Snapshot.read(directory, 2)
    assert manifest.snapshot[1] in str(refusal.value)


def test_what_is_no_delta_cannot_be_built() -> None:
    for parent in (2, 3, -1):
        with pytest.raises(ValueError, match=f"snapshot 2 cannot follow version {parent}"):
            replace(PARTS[1], parent=parent)
        with pytest.raises(ValueError, match=f"checkpoint 2 cannot follow version {parent}"):
            Checkpoint({}, {}, 2, parent)
    with pytest.raises(ValueError, match="a base has removed keys"):
        replace(PARTS[0], removed={"item": torch.tensor([3])})
    with pytest.raises(ValueError, match=r"removed from slots without rows: \['user'\]"):
        replace(PARTS[1], removed={"user": torch.tensor([3])})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"step": "data/x/snapshot/delta"}, "names the step 'data/x/snapshot/delta' but has no"),
        ({"snapshot_parent": 1}, "has version 1 as its snapshot_parent, which does not come"),
        ({"parent": 7}, "has version 7 as its parent, which does not come before it"),
        ({"decisions": -1}, "Expected `int` >= 0"),
        ({"held": 3}, r"Expected `str \| null`"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_not_committed(
    directory: VersionDirectory, manifest_of: ManifestOf, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason), directory.begin(1) as draft:
        draft.commit(manifest_of(1, **changes))
    assert directory.numbers() == []


def test_a_version_without_a_half_is_refused_when_it_is_needed(
    directory: VersionDirectory, manifest_of: ManifestOf
) -> None:
    with directory.begin(1) as draft:
        manifest = draft.commit(manifest_of(1))
    with pytest.raises(VersionError, match="version 1 has no snapshot"):
        Snapshot.read(directory, 1)
    with pytest.raises(VersionError, match="version 1 has no checkpoint"):
        Checkpoint.chain(directory, manifest)


def test_a_chain_may_begin_with_a_base_of_format_1(
    directory: VersionDirectory, manifest_of: ManifestOf
) -> None:
    old = VersionDirectory(GOLDEN_1)
    manifest = old.manifest(8)
    name = manifest.snapshot[0]
    base = Snapshot.read(old, 8)
    directory._storage.write(name, old._storage.read(name))
    slots = {slot: base.slots[slot] for slot in base.slots}
    delta = Snapshot(9, {}, {}, slots, 8, {"item": torch.tensor([2**62])}, 5)
    with directory.begin(9) as draft:
        draft.share(name, FileEntry.of(old._storage.read(name)))
        delta.write(draft)
        draft.commit(manifest_of(9, parent=8, snapshot_parent=8))
    read = Snapshot.read(directory, 9)
    assert (read.number, read.at_ms) == (9, 5)
    assert torch.equal(read.slots["item"].vectors(), base.slots["item"].vectors())
