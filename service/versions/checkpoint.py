"""The full-precision half of a version: everything the trainer needs to go on bit-identically."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from service.versions.directory import Draft, VersionDirectory
from service.versions.manifest import FileEntry
from service.versions.tensors import header

KIND = "checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of any type and shape by name, kept bit by bit, and JSON-able facts beside them."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)

    def write(self, draft: Draft) -> FileEntry:
        """Write it as one file of the draft."""
        metadata = header(KIND, meta=self.meta)
        return draft.write("checkpoint/state.safetensors", self.tensors, metadata)

    @classmethod
    def read(cls, directory: VersionDirectory, number: int) -> "Checkpoint":
        """Read the checkpoint of a version. Raises VersionError naming the file and reason."""
        manifest = directory.manifest(number)
        name = manifest.only("checkpoint")
        file = directory.open(manifest, name)
        return cls(file.tensors, file.facts(name, KIND, "meta"))
