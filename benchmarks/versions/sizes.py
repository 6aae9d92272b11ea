"""Bytes: of a delta beside its base, and of an int8 snapshot beside a full-precision one."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks.report import CheckFailed, Figure
from benchmarks.versions.world import DIM, World
from service.model.ranker import ITEM_SLOT
from service.versions import SlotRows, Snapshot

HALVES = ("snapshot", "checkpoint")


def delta_bytes(world: World) -> Iterator[Figure]:
    """The newest version's deltas over the bases of their chains, one figure per half."""
    manifest = world.newest
    newest = Snapshot.read_file(world.versions, manifest, manifest.snapshot[-1])
    if newest.parent is None:
        raise CheckFailed(f"version {manifest.number} is no delta")
    touched = len(newest.slots[ITEM_SLOT]) - 1
    for half in HALVES:
        base, *_, delta = (manifest.files[name].bytes for name in manifest.part(half))
        yield Figure.of(
            "versions.delta_bytes_ratio", "", [delta / base], half=half, rows=world.rows, dim=DIM,
            touched=touched, delta_bytes=delta, base_bytes=base,
        )  # fmt: skip


def snapshot_bytes(world: World) -> Iterator[Figure]:
    """The whole snapshot in int8 over the same in fp32, original ids left out of both; then its
    rows with their keys alone."""
    served = Snapshot.read(world.versions, world.number)
    rows = replace(served.slots[ITEM_SLOT], ids=None)
    exact = replace(rows, codes=rows.vectors())
    compact, full = (_written(world, served, one) for one in (rows, exact))
    yield Figure.of(
        "versions.snapshot_bytes_ratio", "", [compact / full], of="whole file", **_about(world),
        int8_bytes=compact, fp32_bytes=full,
    )  # fmt: skip
    alone = [_size(replace(one, extra={})) for one in (rows, exact)]
    yield Figure.of(
        "versions.snapshot_bytes_ratio", "", [alone[0] / alone[1]], of="rows and keys",
        **_about(world), int8_bytes=alone[0], fp32_bytes=alone[1],
    )  # fmt: skip


def _about(world: World) -> dict[str, Any]:
    return {"rows": world.rows, "dim": DIM}


def _size(rows: SlotRows) -> int:
    return sum(tensor.nbytes for tensor in rows.to_tensors().values())


def _written(world: World, snapshot: Snapshot, rows: SlotRows) -> int:
    """Bytes of the snapshot's file with other item rows; it is not committed."""
    weights: Any = snapshot.weights() if not hasattr(rows.codes, "scale_R") else snapshot.dense
    changed = replace(snapshot, dense=weights, slots={ITEM_SLOT: rows})
    with world.versions.begin(world.number + 1) as draft:
        return changed.write(draft).bytes
