"""The full-precision half of a version: everything the trainer needs to go on bit-identically."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from service.errors import VersionError
from service.versions.chains import check_chain, check_end, link_ends, link_header, link_name
from service.versions.directory import VersionDirectory
from service.versions.draft import Draft
from service.versions.manifest import FileEntry, Manifest

PART = "checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of any type and shape by name, kept bit by bit, and JSON-able facts beside them.

    It belongs to version `number`. With a `parent` it holds what has changed since that version;
    what the tensors of a change mean is for those to know who make them.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    number: int
    parent: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a parent that does not come before."""
        if self.parent is not None and not 0 <= self.parent < self.number:
            raise ValueError(f"checkpoint {self.number} cannot follow version {self.parent}")

    def write(self, draft: Draft) -> FileEntry:
        """Write it as one file of the draft."""
        metadata = link_header(PART, self, meta=self.meta)
        return draft.write(link_name(PART, self), self.tensors, metadata)

    @classmethod
    def chain(cls, directory: VersionDirectory, manifest: Manifest) -> "list[Checkpoint]":
        """Base and deltas of a version, every link checked. Raises VersionError naming the file
        and the reason."""
        if not manifest.checkpoint:
            raise VersionError(f"version {manifest.number} has no checkpoint")
        links = [cls._read(directory, manifest, name) for name in manifest.checkpoint]
        check_chain(links, manifest.checkpoint)
        check_end(links, manifest.checkpoint, manifest)
        return links

    @classmethod
    def _read(cls, directory: VersionDirectory, manifest: Manifest, name: str) -> "Checkpoint":
        file = directory.open(manifest, name)
        number, parent = link_ends(PART, file, name, manifest)
        return cls(file.tensors, file.fact(name, "meta", dict), number, parent)
