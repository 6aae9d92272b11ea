"""Batches that were not trained because something in them was not finite, kept to be looked at."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from trainer.examples import Batch
from trainer.targets import TargetBatch

KEPT = 100
"""Files; a stream that keeps failing does not fill the disk."""


class Inspection:
    """A folder with one safetensors file per skipped batch, named by its block and place there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, batch: list[Batch] | TargetBatch, block: int, number: int) -> None:
        """Write every tensor of the block's batch `number` under its path inside the batch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if len(list(self.folder.iterdir())) < KEPT:
            kind = "actions" if isinstance(batch, TargetBatch) else "next-items"
            tensors = {path: t.clone() for path, t in _tensors(batch, "")}
            save_file(tensors, self.folder / f"block-{block:08d}-{kind}-{number}.safetensors")


def _tensors(value: Any, path: str) -> list[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        return [(path, value)]
    inner = enumerate(value) if isinstance(value, list) else vars(value).items()
    parts = [_tensors(one, f"{path}.{name}".strip(".")) for name, one in inner]
    return [found for part in parts for found in part]
