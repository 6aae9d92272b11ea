"""Wrote golden/, the version that every later release must still read. No test itself.

python tests/service/versions/write_golden.py FOLDER, run once per format from the repository root;
a new format gets a new folder beside the old one, which stays as it is.
"""

import sys
from pathlib import Path

import torch

from service.actions import RESERVED_KEY
from service.versions import Checkpoint, Manifest, SlotRows, Snapshot, VersionDirectory


def snapshot() -> Snapshot:
    """In full precision. All values are sums of powers of two, alike on every machine."""
    keys = torch.tensor([RESERVED_KEY, 7, -5, 2**62])
    vectors = torch.arange(16.0).reshape(4, 4) / 8 - 1
    prior = torch.tensor([0.0, -1.5, -2.25, -8.0])
    return Snapshot(
        number=7,
        model={"dim": 4, "layers": 1, "actions": ["click", "hide"]},
        dense={
            "layers.0.weight": torch.arange(12.0).reshape(3, 4) / 4,
            "layers.0.norm": torch.tensor([1.0, 0.5, 0.25, 0.125]),
            "head.weight": torch.arange(8.0).reshape(2, 4) / 16,
        },
        slots={
            "item": SlotRows(keys, vectors, {"prior": prior}, ["", 7, "zwölf", "i-62"]),
            "user": SlotRows(keys[:2], vectors[:2]),
        },
    )


def checkpoint() -> Checkpoint:
    """Several types, one of them empty."""
    tensors = {
        "table.vectors": torch.arange(8.0).reshape(2, 4) / 3,
        "table.keys": torch.tensor([RESERVED_KEY, 2**63 - 1]),
        "optimizer.half": torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
        "empty": torch.zeros(0, 4),
    }
    return Checkpoint(tensors, {"seed": 11, "tables": {"item": {"dim": 4}}})


def histories() -> dict[str, torch.Tensor]:
    """A segment with two events."""
    return {"user": torch.tensor([1, -2]), "at_ms": torch.tensor([1732096800123, 1732096801000])}


def main(root: Path) -> None:
    """Version 7, whose child 8 shares all but a full-precision snapshot."""
    directory = VersionDirectory(root)
    fields = {
        "created_at": 1732096800.5,
        "watermark_ms": 1732096799000,
        "topic_ids": {"actions": "t-9f3a", "impressions": "t-01bc"},
        "blocks": [4096, 17],
        "settings": {"model": {"dim": 4}},
        "counters": {"trained": 4113, "skipped": 0, "mean_gap_seconds": 0.5},
        "metrics": {"loss": 2.25},
    }
    offsets = {"actions": {"0": 4113, "1": 12}, "impressions": {"0": 0}}
    with directory.begin(7) as draft:
        checkpoint().write(draft)
        snapshot().quantized(exact=["head.weight"]).write(draft)
        draft.write("histories/00000007.safetensors", histories())
        parent = draft.commit(Manifest(number=7, parent=None, block=2, offsets=offsets, **fields))
    with directory.begin(8) as draft:
        snapshot().write(draft)
        for name in parent.checkpoint + parent.histories:
            draft.share(name, parent.files[name])
        draft.commit(Manifest(number=8, parent=7, block=4, offsets=offsets, **fields))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
