"""Directories to write versions into, and a small version to write."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from service.actions import RESERVED_KEY
from service.versions import (
    Checkpoint,
    Manifest,
    RowIds,
    SlotRows,
    Snapshot,
    VersionDirectory,
)

ManifestOf = Callable[..., Manifest]
Publish = Callable[..., Manifest]

INT8 = {"layers.0.weight": "int8", "slots/item": "int8"}


@pytest.fixture
def directory(tmp_path: Path) -> VersionDirectory:
    return VersionDirectory(tmp_path / "versions")


@pytest.fixture(params=["local", "memory"])
def any_directory(request: pytest.FixtureRequest, tmp_path: Path) -> VersionDirectory:
    memory = f"memory://{uuid.uuid4().hex}/versions"
    return VersionDirectory(memory if request.param == "memory" else tmp_path / "versions")


@pytest.fixture
def manifest_of() -> ManifestOf:
    def build(number: int, **changes: Any) -> Manifest:
        fields: dict[str, Any] = {
            "number": number,
            "parent": number - 1 or None,
            "created_at": 1732096800.5,
            "watermark_ms": 1732096800123,
            "block": 10 * number,
            "offsets": {"actions": {"0": 1000 * number}},
            "topic_ids": {"actions": "t-1"},
        }
        return Manifest(**fields | changes)

    return build


@pytest.fixture
def snapshot_of() -> Callable[[int], Snapshot]:
    def build(number: int, rows: int = 9, width: int = 8) -> Snapshot:
        make = torch.Generator().manual_seed(number)
        ids: list[int | str] = ["", 7, "zwölf", *(f"item-{n}" for n in range(3, rows))]
        keys = torch.tensor([RESERVED_KEY, 7, *range(-1, 1 - rows, -1)])
        vectors = torch.randn(rows, width, generator=make)
        dense = {
            "layers.0.weight": torch.randn(12, width, generator=make),
            "layers.0.norm": torch.randn(width, generator=make),
            "head.weight": torch.randn(2, width, generator=make),
        }
        prior = {"prior": torch.randn(rows, generator=make)}
        slots = {"item": SlotRows(keys, vectors, prior, RowIds.from_list(ids))}
        return Snapshot(number, {"dim": width, "layers": 1}, dict(dense), slots)

    return build


@pytest.fixture
def publish(manifest_of: ManifestOf, snapshot_of: Callable[[int], Snapshot]) -> Publish:
    """Commit a whole version: checkpoint, int8 snapshot, one new history segment, the parent's."""

    def commit(directory: VersionDirectory, number: int, **changes: Any) -> Manifest:
        with directory.begin(number) as draft:
            Checkpoint({"step": torch.tensor(number)}, {"seed": 3}, number).write(draft)
            snapshot_of(number).quantized(INT8).write(draft)
            draft.write(f"histories/{number}.safetensors", {"item": torch.arange(min(number, 9))})
            if number - 1 in directory.numbers():
                parent = directory.manifest(number - 1)
                for name in parent.histories:
                    draft.share(name, parent.files[name])
            return draft.commit(manifest_of(number, **changes))

    return commit
