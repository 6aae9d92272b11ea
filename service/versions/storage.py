"""Where the files of versions live: a local folder, or any filesystem that fsspec knows.

The seam between versions and disks. Names are relative to the root, with `/` between their parts.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import fsspec

from service.errors import SettingsError
from service.remedies import remedied
from service.versions.formats import Part
from service.versions.objects import FsspecStorage

Steps = Callable[[str], None]
"""Told of every completed change of the storage: a log line, or where a crash test kills."""

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def is_safe(name: str) -> bool:
    """Whether a name stays inside the directory on every filesystem.

    Parts of letters, digits, `.`, `_` and `-`, none empty or with a leading dot: that leaves out
    absolute names, `..`, backslashes, drives, urls and hidden files.
    """
    return all(_PART.fullmatch(part) for part in name.split("/"))


class Storage(Protocol):
    """What versions ask of a filesystem.

    `FileNotFoundError` from `read` if a name is absent. Whatever else goes wrong is an `OSError`
    that names the path, the reason and a remedy.
    """

    def read(self, name: str) -> bytes:
        """The whole file."""

    def write(self, name: str, *parts: Part) -> None:
        """Write a file nobody else writes, its parts one after another; its content survives power
        loss after `sync`."""

    def sync(self, names: Iterable[str]) -> None:
        """Return when the folder entries of these files survive power loss."""

    def create(self, name: str, data: bytes, aside: str) -> None:
        """Make a file with its whole content, durably, or raise FileExistsError.

        `aside` is a name private to the caller, for a storage that must prepare elsewhere.
        """

    def replace(self, name: str, data: bytes, aside: str) -> None:
        """Put a file in the place of an older one; a reader sees one of them whole."""

    def remove(self, name: str) -> None:
        """Remove a file; it may be gone already."""

    def names(self, folder: str) -> list[str]:
        """Every file below a folder, sorted, as of now; none if there is no such folder."""


def open_storage(url: str | Path, steps: Steps) -> Storage:
    """A local path (or file:// url) gives `LocalStorage`, any other url `FsspecStorage`.

    Raises SettingsError for a url that fsspec, as it is installed, cannot open.
    """
    if isinstance(url, Path) or "://" not in url:
        return LocalStorage(Path(url), steps)
    if url.startswith(("file://", "local://")):
        return LocalStorage(Path(url.partition("://")[2]), steps)
    try:
        filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, TypeError, ValueError) as error:
        raise SettingsError(f"versions cannot be kept in {url}: {error}") from None
    return FsspecStorage(filesystem, root, steps)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add path and remedy to what the system says."""
    try:
        yield
    except OSError as error:
        if (reason := remedied(error)) is None:
            raise
        raise OSError(error.errno, reason, error.filename or str(path)) from error


class LocalStorage:
    """A folder on this machine. It must support hard links: `create` is one, being atomic."""

    def __init__(self, root: Path, steps: Steps) -> None:
        self._root = root
        self._steps = steps

    def read(self, name: str) -> bytes:
        with _naming(self._root / name):
            return (self._root / name).read_bytes()

    def write(self, name: str, *parts: Part) -> None:
        path = self._root / name
        with _naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
        self._steps(f"write {name}")

    def sync(self, names: Iterable[str]) -> None:
        folders = {path for name in names for path in Path(name).parents}
        for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            _sync_folder(self._root / folder)
        if folders:  # the root itself may be new; who may not read the folder above did not make it
            with contextlib.suppress(PermissionError):
                _sync_folder(self._root.absolute().parent)
        self._steps("sync folders")

    def create(self, name: str, data: bytes, aside: str) -> None:
        self.write(aside, data)
        path = self._root / name
        with _naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(self._root / aside, path)
        self._steps(f"link {name}")
        self.sync([name])
        self.remove(aside)

    def replace(self, name: str, data: bytes, aside: str) -> None:
        self.write(aside, data)
        with _naming(self._root / name):
            (self._root / aside).replace(self._root / name)
        _remove_if_empty((self._root / aside).parent)
        self._steps(f"replace {name}")

    def remove(self, name: str) -> None:
        path = self._root / name
        with _naming(path):
            path.unlink(missing_ok=True)
        for folder in list(path.relative_to(self._root).parents)[:-2]:
            if not _remove_if_empty(self._root / folder):
                break
        self._steps(f"remove {name}")

    def names(self, folder: str) -> list[str]:
        with _naming(self._root / folder):
            return sorted(
                str(Path(parent, file).relative_to(self._root))
                for parent, _, files in os.walk(self._root / folder, onerror=_unless_gone)
                for file in files
            )


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _sync_folder(folder: Path) -> None:
    with _naming(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_if_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
