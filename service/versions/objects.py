"""Files of versions in an object store, or any other filesystem that fsspec knows."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from service.versions.formats import Part

PATIENCE_SECONDS = 60.0
"""How long a put may take, and a second more for every megabyte. Clients have limits of their own,
but s3fs waits for ever when a silent store should say that it wants the bytes (100-continue)."""


class FsspecStorage:
    """A filesystem behind fsspec (memory://, s3://, ...), where a put is whole and durable.

    An object store has no exclusive rename or link. `create` is a conditional put instead, fsspec's
    `mode="create"`: S3 refuses it if the object is there (If-None-Match: *). A store that ignores
    the condition would let two trainers overwrite each other, so the first `create` tries it out.
    The lock makes it exact within one process, which is all that memory:// needs.
    """

    _lock = threading.Lock()

    def __init__(self, filesystem: Any, root: str, steps: Callable[[str], None]) -> None:
        self._files = filesystem
        self._root = root.rstrip("/")
        self._steps = steps
        self._exclusive = False

    def read(self, name: str) -> bytes:
        with self._asking(name, FileNotFoundError) as path:
            return bytes(self._files.cat_file(path))

    def write(self, name: str, *parts: Part) -> None:
        with self._asking(name) as path:
            self._put(path, b"".join(parts))
        self._steps(f"write {name}")

    def _put(self, path: str, data: bytes, **how: Any) -> None:
        if self._files.async_impl:
            how["timeout"] = PATIENCE_SECONDS + len(data) / 1e6
        self._files.pipe_file(path, data, **how)

    def sync(self, names: Iterable[str]) -> None:
        self._steps("sync folders")

    def create(self, name: str, data: bytes, aside: str) -> None:
        with self._lock:
            if not self._exclusive:
                self._try_out(aside)
            self._create(name, data)
        self._steps(f"create {name}")

    def _create(self, name: str, data: bytes) -> None:
        try:
            with self._asking(name) as path:
                self._put(path, data, mode="create")
        except FileExistsError:
            raise
        except OSError as error:
            # A lost answer, two puts that crossed, a store that says in its own words that the file
            # is there: if it is, its content tells the caller whose it is.
            if self._is_there(name):
                raise FileExistsError(f"{self._root}/{name} is there") from error
            raise

    def _is_there(self, name: str) -> bool:
        try:
            self.read(name)
        except FileNotFoundError:
            return False
        return True

    def _try_out(self, aside: str) -> None:
        with contextlib.suppress(FileExistsError):  # itself, if an answer was lost
            self._create(aside, b"")
        try:
            self._create(aside, b"")
        except FileExistsError:
            self._exclusive = True
        finally:
            with self._asking(aside) as path:
                self._files.rm_file(path)
        if not self._exclusive:
            raise OSError(
                f"{self._root}: this store overwrites where it must refuse (it ignores "
                "If-None-Match), so two trainers could destroy each other's versions; keep them "
                "in a store with conditional writes, or in a local folder"
            )

    def replace(self, name: str, data: bytes, aside: str) -> None:
        with self._asking(name) as path:
            self._put(path, data)
        self._steps(f"replace {name}")

    def remove(self, name: str) -> None:
        try:
            with self._asking(name, FileNotFoundError) as path:
                self._files.rm_file(path)
        except FileNotFoundError:
            return
        self._steps(f"remove {name}")

    def names(self, folder: str) -> list[str]:
        with self._asking(folder) as path:
            found: list[str] = self._files.find(path)
        return sorted(path.removeprefix(f"{self._root}/") for path in found)

    @contextlib.contextmanager
    def _asking(self, name: str, passing: type[OSError] = FileExistsError) -> Iterator[str]:
        """The full path of a name; any error that is not `passing` becomes a plain OSError.

        Clients raise errors of their own where the store is away (botocore's are no OSErrors), and
        FileNotFoundError where a write finds no bucket.
        """
        path = f"{self._root}/{name}"
        try:
            yield path
        except passing:
            raise
        except Exception as error:
            raise OSError(
                f"{path}: {str(error) or type(error).__name__}; check that the store is up, that "
                "its bucket exists, and that the credentials may read and write there"
            ) from error
