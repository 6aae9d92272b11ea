"""Wrote golden/, the versions that every later release must still read. No test itself.

python tests/service/versions/write_golden.py FOLDER, run once per format from the repository root;
a new format gets a new folder beside the old one, which stays as it is. Format 1 has version 7 as
it is here, and an 8 that shares all but a full-precision snapshot.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from service.actions import RESERVED_KEY
from service.versions import (
    Branch,
    Checkpoint,
    Draft,
    Erase,
    Manifest,
    Pin,
    Release,
    RowIds,
    SlotRows,
    Snapshot,
    VersionDirectory,
    fold,
)

MODEL = {"dim": 4, "layers": 1, "actions": ["click", "hide"]}
INT8 = {"layers.0.weight": "int8", "slots/item": "int8", "slots/user": "int8"}
ALL = {
    "layers.0.weight": "int8",
    "layers.1.weight": "int4",
    "layers.0.norm": "fp16",
    "slots/item": "int8",
    "slots/user": "int4",
    "slots/place": "fp16",
}
FIELDS: dict[str, Any] = {
    "created_at": 1732096800.5,
    "watermark_ms": 1732096799000,
    "offsets": {"actions": {"0": 4113, "1": 12}, "impressions": {"0": 0}},
    "topic_ids": {"actions": "t-9f3a", "impressions": "t-01bc"},
    "blocks": [4096, 17],
    "settings": {"model": {"dim": 4}},
    "counters": {"trained": 4113, "skipped": 0, "mean_gap_seconds": 0.5},
    "metrics": {"loss": 2.25},
}
DECISIONS = (
    Pin(8, at=1732096801.5),
    Release(9, at=1732096802.5),
    Branch(9, at=1732096803.5),
    Erase(user=-5, before_ms=1732096799000, at=1732096804.5),
    Pin(None, at=1732096805.5),
)


def snapshot() -> Snapshot:
    """In full precision. All values are sums of powers of two, alike on every machine."""
    keys = torch.tensor([RESERVED_KEY, 7, -5, 2**62])
    vectors = torch.arange(16.0).reshape(4, 4) / 8 - 1
    prior = torch.tensor([0.0, -1.5, -2.25, -8.0])
    ids = RowIds.from_list(["", 7, "zwölf", "i-62"])
    return Snapshot(
        number=7,
        model=MODEL,
        dense={
            "layers.0.weight": torch.arange(12.0).reshape(3, 4) / 4,
            "layers.0.norm": torch.tensor([1.0, 0.5, 0.25, 0.125]),
            "head.weight": torch.arange(8.0).reshape(2, 4) / 16,
        },
        slots={
            "item": SlotRows(keys, vectors, {"prior": prior}, ids),
            "user": SlotRows(keys[:2], vectors[:2]),
        },
    )


def chain() -> list[Snapshot]:
    """Versions 7, 8 and 9 in full precision: a base and two deltas with removed keys."""
    base = snapshot()
    vectors = torch.arange(12.0).reshape(3, 4) / 16 - 0.5
    keys, unknown = torch.tensor([RESERVED_KEY, 2**62, 11]), torch.tensor([RESERVED_KEY])

    def rows(keys: torch.Tensor, ids: list[int | str]) -> SlotRows:
        counts = torch.arange(2.0 * len(keys)).reshape(-1, 2) / 4
        return SlotRows(keys, vectors[: len(keys)], {"counts": counts}, RowIds.from_list(ids))

    def slots(item: SlotRows, users: torch.Tensor) -> dict[str, SlotRows]:
        user = SlotRows(users, vectors[: len(users)] * 2)
        return {"item": item, "user": user, "place": SlotRows(unknown, vectors[:1] / 4)}

    item = base.slots["item"]
    counts = torch.arange(8.0).reshape(4, 2)
    first = SlotRows(item.keys_R, item.vectors(), {"counts": counts}, item.ids)
    gone, none = torch.tensor([-5, 11]), torch.tensor([], dtype=torch.int64)
    dense = {**base.dense, "layers.1.weight": torch.arange(6.0).reshape(2, 3) / 4}
    again = {name: weight / 2 for name, weight in dense.items()}
    at_ms = 1732096799000
    return [
        Snapshot(7, MODEL, dense, slots(first, torch.tensor([RESERVED_KEY, 7])), at_ms=at_ms),
        Snapshot(
            8, MODEL, {}, slots(rows(keys, ["", "i-62", 11]), torch.tensor([RESERVED_KEY, 8])),
            7, {"item": gone, "user": none}, at_ms + 1000,
        ),
        Snapshot(
            9, MODEL, again, slots(rows(keys[:1], [""]), unknown),
            8, {"item": torch.tensor([7]), "user": torch.tensor([7])}, at_ms + 2000,
        ),
    ]  # fmt: skip


def quantized(link: Snapshot) -> Snapshot:
    """In all precisions."""
    return link.quantized({n: p for n, p in ALL.items() if link.dense or n.startswith("slots/")})


def checkpoint() -> Checkpoint:
    """Several types, one of them empty."""
    tensors = {
        "table.vectors": torch.arange(8.0).reshape(2, 4) / 3,
        "table.keys": torch.tensor([RESERVED_KEY, 2**63 - 1]),
        "optimizer.half": torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
        "empty": torch.zeros(0, 4),
    }
    return Checkpoint(tensors, {"seed": 11, "tables": {"item": {"dim": 4}}}, 7)


def change(number: int) -> Checkpoint:
    """What a later version changes."""
    return Checkpoint({"rows": torch.tensor([number])}, {"seed": number}, number, number - 1)


def histories() -> dict[str, torch.Tensor]:
    """A segment with two events."""
    return {"user": torch.tensor([1, -2]), "at_ms": torch.tensor([1732096800123, 1732096801000])}


def main(root: Path) -> None:
    """Version 7 is a base, 8 and 9 follow it, 9 is held; 10, which knows of all decisions, has a
    base of its own and the step beside it."""
    directory = VersionDirectory(root)
    first, *deltas = map(quantized, chain())
    with directory.begin(7) as draft:
        checkpoint().write(draft)
        first.write(draft)
        draft.write("histories/00000007.safetensors", histories())
        parent = draft.commit(manifest(first))
    for delta in deltas:
        with directory.begin(delta.number) as draft:
            share(draft, parent, parent.checkpoint)
            change(delta.number).write(draft)
            share(draft, parent, [*parent.snapshot, *parent.histories])
            step = delta.write_step(draft)
            held = "its loss rose" if delta.number == 9 else None
            parent = draft.commit(manifest(delta, step=step, held=held))
    for decision in DECISIONS:
        directory.decide(decision)
    last = last_step()
    with directory.begin(10, len(DECISIONS)) as draft:
        share(draft, parent, parent.checkpoint)
        change(10).write(draft)
        fold([first, *deltas, last]).write(draft)
        step = last.write_step(draft)
        share(draft, parent, parent.histories)
        draft.commit(manifest(last, step=step, decisions=len(DECISIONS)))


def last_step() -> Snapshot:
    """From version 9 to 10: a removed item comes back."""
    delta = quantized(chain()[1])
    return Snapshot(10, MODEL, {}, delta.slots, 9, delta.removed, 1732096802000)


def manifest(link: Snapshot, **more: Any) -> Manifest:
    """What all of them have."""
    return Manifest(
        number=link.number, parent=link.number - 1 if link.parent else None, block=link.number - 5,
        snapshot_parent=link.parent, precision=ALL, **FIELDS, **more,
    )  # fmt: skip


def share(draft: Draft, parent: Manifest, names: list[str]) -> None:
    """Take over files of the parent."""
    for name in names:
        draft.share(name, parent.files[name])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
