"""Disks that are full, read-only, forbidden, slow or broken: clear errors, nothing half-written."""

import errno
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.versions import VersionDirectory
from service.versions.storage import LocalStorage
from tests.service.versions.small import commit, weights

ROOT = os.geteuid() == 0
BIG = 1_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "freshet-test", place], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no filesystem can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def check_unharmed(directory: VersionDirectory) -> None:
    """Version 1 is there whole, and nothing else."""
    reader = VersionDirectory(directory.url)
    assert reader.numbers() == [1]
    assert weights(reader, 1) == [1]
    assert set(reader._storage.names("data")) == set(reader.manifest(1).files)


def check_next(directory: VersionDirectory) -> None:
    """A version is written, and a fresh reader verifies it."""
    commit(directory, 2)
    reader = VersionDirectory(directory.url)
    assert (reader.latest(), weights(reader, 2)) == (2, [2])


def test_a_full_disk_is_named_leaves_no_draft_and_mends_with_space(disk: Path) -> None:
    directory = VersionDirectory(disk / "versions")
    commit(directory, 1)
    for _ in range(3):  # a failed draft takes no space from the next
        with pytest.raises(
            OSError, match=r"No space left.*free some space there: '.*/data/"
        ) as told:
            commit(directory, 2, floats=BIG)
        assert told.value.errno == errno.ENOSPC
        check_unharmed(directory)
    (disk / "rubbish").write_bytes(bytes(990_000 - sum(p.stat().st_size for p in files(disk))))
    with pytest.raises(OSError, match="No space left"):
        commit(directory, 2, floats=30_000)
    check_unharmed(directory)
    (disk / "rubbish").unlink()
    check_next(directory)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_disk_that_became_read_only_still_serves(disk: Path) -> None:
    directory = VersionDirectory(disk / "versions")
    commit(directory, 1)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(OSError, match="Read-only file system; mount it for writing: '/"):
        commit(directory, 2)
    check_unharmed(directory)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    check_next(directory)


def in_child(work: Callable[[], Any]) -> str:
    """What `work` raises in a child process; "" if nothing."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        text = ""
        try:
            work()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        text = told.read()
    os.waitpid(child, 0)
    return text


def as_nobody(work: Callable[[], Any]) -> str:
    """What `work` raises without root's rights."""

    def without() -> None:
        os.setgid(65534)
        os.setuid(65534)
        work()

    return in_child(without)


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A folder that another user can reach."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    return tmp_path


@pytest.mark.skipif(not ROOT, reason="only root can become another user")
def test_who_may_not_write_is_told_and_can_read(public: Path) -> None:
    directory = VersionDirectory(public / "versions")
    commit(directory, 1)
    told = as_nobody(lambda: commit(VersionDirectory(directory.url), 2))
    assert told.startswith("PermissionError: ")
    assert "let the user of this process read and write there" in told
    assert str(public / "versions/data") in told
    assert as_nobody(lambda: check_unharmed(directory)) == ""
    check_unharmed(directory)
    check_next(directory)


@pytest.mark.skipif(not ROOT, reason="only root can become another user")
def test_versions_that_may_not_be_listed_are_not_taken_for_none(public: Path) -> None:
    directory = VersionDirectory(public / "versions")
    commit(directory, 1)
    (public / "versions/manifests").chmod(0o700)
    told = as_nobody(lambda: VersionDirectory(directory.url).numbers())
    assert "Permission denied" in told
    assert "manifests" in told


def failing(place: int) -> None:
    """Let the fsync of this place fail, as it does when the disk breaks."""
    real, seen = os.fsync, iter(range(1, place + 1))

    def fsync(descriptor: int) -> None:
        if next(seen, None) == place:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    os.fsync = fsync


@pytest.mark.parametrize(
    ("place", "what"), [(1, "data"), (3, "data"), (7, "manifest.json")],
    ids=["file", "folder", "manifest"],
)  # fmt: skip
def test_an_fsync_that_fails_commits_nothing(tmp_path: Path, place: int, what: str) -> None:
    directory = VersionDirectory(tmp_path / "versions")
    commit(directory, 1)

    def fail() -> None:
        failing(place)
        commit(VersionDirectory(directory.url), 2)

    told = in_child(fail)
    assert told.startswith("OSError: [Errno 5] Input/output error; look at the system's log"), told
    assert f"'{directory.url}/data" in told
    assert told.endswith(what + "'") or what == "data"
    assert VersionDirectory(directory.url).numbers() == [1]
    check_next(directory)
    directory.prune(keep=2)
    named = {name for number in (1, 2) for name in directory.manifest(number).files}
    assert set(directory._storage.names("data")) == named


def test_slow_storage_changes_nothing_but_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def slowed(name: str) -> Callable[..., Any]:
        real = getattr(LocalStorage, name)

        def call(self: LocalStorage, *arguments: Any) -> Any:
            calls.append(name)
            time.sleep(0.02)
            return real(self, *arguments)

        return call

    for name in ("read", "write", "sync", "create", "replace", "remove", "names"):
        monkeypatch.setattr(LocalStorage, name, slowed(name))
    directory = VersionDirectory(tmp_path / "versions")
    for number in (1, 2, 3):
        commit(directory, number)
    directory.prune(keep=2)
    assert directory.numbers() == [2, 3]
    assert weights(directory, 3) == [3]
    assert set(calls) == {"read", "write", "sync", "create", "replace", "remove", "names"}
