"""A directory of versions: commit, list, read with every byte checked, prune.

manifests/00000012.json      creating it is the commit of version 12
data/00000012-9f3a1c20/...   what the draft of version 12 wrote; later versions may share it
LATEST                       a hint for people and scripts: the number committed last
"""

import logging
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from torch import Tensor

from service.errors import VersionError, VersionExists
from service.versions.manifest import PARTS, FileEntry, Manifest, manifest_name
from service.versions.storage import Steps, Storage, is_safe, open_storage
from service.versions.tensors import TensorFile, pack, unpack

_log = logging.getLogger(__name__)
_MANIFEST = re.compile(r"manifests/(\d{8,})\.json")
_DATA = re.compile(r"data/(\d{8,})-[^/]+/(.+)")


def _part_of(name: str) -> str | None:
    """What a data file is for; None if it is not one."""
    match = _DATA.fullmatch(name)
    return match[2].partition("/")[0] if match and "/" in match[2] else None


class VersionDirectory:
    """Versions under a local path or an fsspec url. Safe for many processes at once.

    `steps` is told of every completed change of the storage; by default it is logged.
    """

    def __init__(self, url: str | Path, steps: Steps = _log.debug) -> None:
        self.url = str(url)
        self._storage = open_storage(url, steps)

    def numbers(self) -> list[int]:
        """The committed versions, ascending."""
        found = map(_MANIFEST.fullmatch, self._storage.names("manifests"))
        return sorted(int(match[1]) for match in found if match)

    def latest(self) -> int | None:
        """The highest committed number, or None. Never trusts the LATEST hint."""
        return max(self.numbers(), default=None)

    def manifest(self, number: int) -> Manifest:
        """The manifest of a version. Raises VersionError if it is missing, damaged or unknown."""
        name = manifest_name(number)
        return Manifest.decode(name, self._bytes(name))

    def begin(self, number: int) -> "Draft":
        """Start version `number`. Raises VersionExists unless it is above every committed one."""
        self.check_newest(number - 1)
        return Draft(self, self._storage, number)

    def check_newest(self, number: int) -> None:
        """Raise VersionExists if a version above `number` is committed (fencing)."""
        latest = self.latest()
        if latest is not None and latest > number:
            raise VersionExists(
                f"version {latest} is committed in {self.url} where {number} should be the newest: "
                "another trainer is ahead. Stop this one, or let it resume from there"
            )

    def read(self, number: int, name: str) -> dict[str, Tensor]:
        """The tensors of one file of a version, its size and SHA-256 checked on these very bytes.

        `name` is a key of the manifest's `files`. Raises VersionError naming the file and reason.
        """
        return self.open(self.manifest(number), name).tensors

    def open(self, manifest: Manifest, name: str) -> TensorFile:
        """Like `read`, with the facts of the file's header, for a manifest at hand."""
        return unpack(name, self._checked(manifest, name))

    def verify(self, number: int, part: str | None = None) -> Manifest:
        """Read and check every file of a part of a version (of all parts by default)."""
        manifest = self.manifest(number)
        for name in manifest.files if part is None else manifest.part(part):
            self._checked(manifest, name)
        return manifest

    def _checked(self, manifest: Manifest, name: str) -> bytes:
        entry = manifest.files.get(name)
        if entry is None:
            raise VersionError(f"version {manifest.number} has no file {name!r}")
        data = self._bytes(name)
        if problem := entry.problem(data):
            raise VersionError(f"{name} {problem}")
        return data

    def _bytes(self, name: str) -> bytes:
        try:
            return self._storage.read(name)
        except FileNotFoundError:
            raise VersionError(f"{name} is missing from {self.url}") from None
        except OSError as error:
            raise VersionError(f"{name} cannot be read from {self.url}: {error}") from error

    def prune(self, keep: int) -> list[int]:
        """Remove all but the newest `keep` versions; returns the removed numbers.

        1. Read the manifests to keep: an unreadable one raises VersionError and nothing is removed.
        2. Remove the others, oldest first, so that what is left is always the newest versions.
        3. Remove the data files that no kept manifest names and whose draft was numbered at or
           below the newest version. Such a draft is committed and pruned, crashed, or a racer that
           lost: numbers are never reused, so it can never commit. A draft in progress is numbered
           above the newest version, and its files stay.
        """
        if keep < 1:
            raise ValueError(f"prune must keep at least 1 version, not {keep}")
        numbers = self.numbers()
        kept = {name for number in numbers[-keep:] for name in self.manifest(number).files}
        for number in numbers[:-keep]:
            self._storage.remove(manifest_name(number))
        for name in self._storage.names("data"):
            match = _DATA.fullmatch(name)
            if match and int(match[1]) <= numbers[-1] and name not in kept:
                self._storage.remove(name)
        return numbers[:-keep]


class Draft:
    """A version being written. As a context manager it removes its files if left uncommitted."""

    def __init__(self, directory: VersionDirectory, storage: Storage, number: int) -> None:
        self.number = number
        self.files: dict[str, FileEntry] = {}
        self._directory = directory
        self._storage = storage
        self._folder = f"data/{number:08d}-{secrets.token_hex(4)}"
        self._ours = True  # as long as no manifest can name these files

    def write(
        self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
    ) -> FileEntry:
        """Write a tensor file; its name begins with its part, as in `histories/3.safetensors`.

        `metadata` is a JSON-able object for its header. The file stands under the draft's own
        folder, which nobody reads before the commit. Raises ValueError for a bad or repeated name.
        """
        full = f"{self._folder}/{name}"
        self._check_new(full)
        data = pack(tensors, metadata or {})
        self._storage.write(full, data)
        self.files[full] = FileEntry.of(data)
        return self.files[full]

    def share(self, name: str, entry: FileEntry) -> FileEntry:
        """Take over a file of an earlier version: a key and value of its manifest's `files`."""
        self._check_new(name)
        self.files[name] = entry
        return entry

    def _check_new(self, name: str) -> None:
        if _part_of(name) not in PARTS or not is_safe(name) or name in self.files:
            raise ValueError(
                f"a version cannot hold the file {name!r}: a name is used once, begins with one of "
                f"{', '.join(PARTS)} and '/', and holds letters, digits, '.', '_' and '-' only"
            )

    def commit(self, manifest: Manifest) -> Manifest:
        """Make the version real. Steps, in order, each safe to die after:

        1. refuse if this number or a higher one is committed (VersionExists);
        2. make the folder entries of every file durable (their contents are since `write`);
        3. create the manifest, whole and only if absent: this is the commit. A lost race raises
           VersionExists and the trainer must exit;
        4. refuse if a higher number was committed meanwhile, perhaps long ago and pruned to it: the
           trainer was overtaken in its sleep, and must exit as well;
        5. move the LATEST hint.

        Returns the manifest as committed, with its files. Announcing it and writing group offsets
        are the caller's, in this order, after it.
        """
        parts = {part: [name for name in self.files if _part_of(name) == part] for part in PARTS}
        full = msgspec.structs.replace(manifest, files=self.files, **parts)
        if full.number != self.number:
            raise ValueError(f"manifest {full.number} cannot commit draft {self.number}")
        data = full.encode()
        self._directory.check_newest(self.number - 1)
        try:
            self._storage.sync(name for name in self.files if name.startswith(self._folder))
            self._create(data)
        except FileNotFoundError:  # prepared files are only ever pruned by who is ahead
            self._directory.check_newest(self.number - 1)
            raise
        self._directory.check_newest(self.number)
        self._storage.replace("LATEST", b"%d\n" % self.number, f"{self._folder}/LATEST")
        return full

    def _create(self, data: bytes) -> None:
        name = manifest_name(self.number)
        self._ours = False  # an error from here on may hide a success: prune clears what it leaves
        try:
            self._storage.create(name, data, f"{self._folder}/manifest.json")
        except FileExistsError:
            # A put that was retried after a lost answer finds itself: then it is ours.
            self._ours = self._storage.read(name) != data
            if self._ours:
                self._directory.check_newest(self.number - 1)

    def __enter__(self) -> "Draft":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ours:
            for name in self._storage.names(self._folder):
                self._storage.remove(name)
