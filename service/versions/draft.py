"""A version being written: files under a folder of its own, until the manifest makes it real."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
from torch import Tensor

from service.errors import VersionError, VersionExists
from service.versions.manifest import PARTS, FileEntry, Manifest, manifest_name
from service.versions.storage import Storage, is_safe
from service.versions.tensors import pack

if TYPE_CHECKING:
    from service.versions.directory import VersionDirectory

_log = logging.getLogger(__name__)

DATA = re.compile(r"data/(\d{8,})-[^/]+/(.+)")
"""A data file: the number of the draft that wrote it, and its name inside it."""


class Draft:
    """As a context manager it removes its files if left uncommitted."""

    def __init__(self, directory: VersionDirectory, storage: Storage, number: int) -> None:
        self.number = number
        self.files: dict[str, FileEntry] = {}
        self._directory = directory
        self._storage = storage
        self._folder = private_folder(number)
        self._ours = True  # as long as no manifest can name these files

    def full(self, name: str) -> str:
        """How the manifest names a file that this draft writes."""
        return f"{self._folder}/{name}"

    def write(
        self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
    ) -> FileEntry:
        """Write a tensor file; its name begins with its part, as in `histories/3.safetensors`.

        `metadata` is a JSON-able object for its header. The file stands under the draft's own
        folder, which nobody reads before the commit. Raises ValueError for a bad or repeated name.
        """
        full = self.full(name)
        self._check_new(full)
        parts = pack(tensors, metadata or {})
        self._storage.write(full, *parts)
        self.files[full] = FileEntry.of(*parts)
        return self.files[full]

    def share(self, name: str, entry: FileEntry) -> FileEntry:
        """Take over a file of an earlier version: a key and value of its manifest's `files`.

        Chains are in the order in which their files are shared and written.
        """
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

        1. refuse if this number or a higher one is committed, or if training branched without the
           knowledge of `manifest.decisions` (VersionExists);
        2. make the folder entries of every file durable (their contents are since `write`);
        3. create the manifest, whole and only if absent: this is the commit. A lost race raises
           VersionExists and the trainer must exit;
        4. refuse if a higher number was committed meanwhile, perhaps long ago and pruned to it: the
           trainer was overtaken in its sleep, and must exit as well. If training branched
           meanwhile, the version stands abandoned, and the trainer must exit, too;
        5. move the LATEST hint.

        Returns the manifest as committed, with its files. Announcing it and writing group offsets
        are the caller's, in this order, after it.
        """
        full = msgspec.structs.replace(manifest, files=self.files, **self._parts(manifest))
        if full.number != self.number:
            raise ValueError(f"manifest {full.number} cannot commit draft {self.number}")
        data = full.encode()
        self._directory.check_newest(self.number - 1)
        self._directory.check_branches(manifest.decisions)
        try:
            self._storage.sync(name for name in self.files if name.startswith(self._folder))
            self._create(data)
        except FileNotFoundError:  # prepared files are only ever pruned by who is ahead
            self._directory.check_newest(self.number - 1)
            raise
        try:
            self._directory.check_newest(self.number)
            self._directory.check_branches(manifest.decisions)
        except VersionExists:
            raise
        except (OSError, VersionError) as error:  # the version stands: the next one asks again
            _log.warning("whether version %d is the newest is not known: %s", self.number, error)
        self._hint()
        return full

    def _hint(self) -> None:
        try:
            self._storage.replace("LATEST", b"%d\n" % self.number, self.full("LATEST"))
        except OSError as error:  # the version stands: nobody depends on a hint
            _log.warning("the LATEST hint was not moved to %d: %s", self.number, error)

    def _parts(self, manifest: Manifest) -> dict[str, list[str]]:
        """The files of each part. A step beside a new base is no link of the chain."""
        parts = {part: [name for name in self.files if _part_of(name) == part] for part in PARTS}
        if self.full("snapshot/base.safetensors") in self.files and manifest.step is not None:
            parts["snapshot"] = [name for name in parts["snapshot"] if name != manifest.step]
        return parts

    def _create(self, data: bytes) -> None:
        """An error may hide a success, a put that was retried finds itself: what is there tells."""
        name, self._ours = manifest_name(self.number), False
        try:
            self._storage.create(name, data, self.full("manifest.json"))
        except OSError:
            there = self._there(name)
            self._ours = there != data
            if self._ours:
                if there is not None:
                    self._directory.check_newest(self.number - 1)
                raise
            with contextlib.suppress(OSError):
                self._storage.sync([name])  # it is there, perhaps not durably yet

    def _there(self, name: str) -> bytes | None:
        try:
            return self._storage.read(name)
        except FileNotFoundError:
            return None

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._ours:
            return
        try:
            for name in self._storage.names(self._folder):
                self._storage.remove(name)
        except OSError as failed:  # prune clears them once a version is committed
            _log.warning("files of a draft stay behind: %s", failed)


def private_folder(number: int) -> str:
    """A new folder under `data/` that stays at least until version `number` is committed."""
    return f"data/{number:08d}-{secrets.token_hex(4)}"


def _part_of(name: str) -> str | None:
    """What a data file is for; None if it is not one."""
    match = DATA.fullmatch(name)
    return match[2].partition("/")[0] if match and "/" in match[2] else None
