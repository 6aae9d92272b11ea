"""The seam to filesystems: the same promises from a local folder and from fsspec."""

import uuid
from pathlib import Path

import pytest

from service.versions.objects import FsspecStorage
from service.versions.storage import LocalStorage, Storage, is_safe, open_storage


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    url = (
        f"memory://{uuid.uuid4().hex}/" if request.param == "memory" else str(tmp_path / "new/root")
    )
    return open_storage(url, lambda step: None)


def test_urls_choose_the_storage(tmp_path: Path) -> None:
    for url in (tmp_path, str(tmp_path), f"file://{tmp_path}", "relative/path"):
        assert isinstance(open_storage(url, print), LocalStorage)
    assert isinstance(open_storage("memory://x", print), FsspecStorage)


def test_what_is_written_is_listed_and_read(storage: Storage) -> None:
    storage.write("data/b/1", b"one")
    storage.write("data/a", b"")
    storage.sync(["data/b/1", "data/a"])
    assert storage.names("data") == ["data/a", "data/b/1"]
    assert storage.names("nothing") == []
    assert (storage.read("data/b/1"), storage.read("data/a")) == (b"one", b"")
    with pytest.raises(FileNotFoundError):
        storage.read("data/c")


def test_only_the_first_creator_succeeds(storage: Storage) -> None:
    storage.create("manifests/1", b"first", "data/x/m")
    with pytest.raises(FileExistsError):
        storage.create("manifests/1", b"second", "data/y/m")
    assert storage.read("manifests/1") == b"first"


def test_a_hint_is_replaced_whole(storage: Storage) -> None:
    for text in (b"1\n", b"22\n", b"3\n"):
        storage.replace("LATEST", text, "data/x/hint")
        assert storage.read("LATEST") == text
    assert storage.names("data") == []


def test_removing_what_is_gone_is_fine(storage: Storage) -> None:
    storage.write("data/a/b/c", b"x")
    storage.remove("data/a/b/c")
    storage.remove("data/a/b/c")
    assert storage.names("data") == []


def test_who_may_not_read_the_folder_above_can_still_commit(tmp_path: Path) -> None:
    above = tmp_path / "above"
    storage = open_storage(above / "root", lambda step: None)
    storage.write("data/a", b"x")
    above.chmod(0o311)
    try:
        storage.create("manifests/1", b"y", "data/m")
        assert storage.read("manifests/1") == b"y"
    finally:
        above.chmod(0o755)


def test_names_that_could_leave_the_directory_are_not_safe() -> None:
    for name in ("a", "a/b-c_d.e", "data/00000012-9f3a/histories/0.safetensors", "9"):
        assert is_safe(name), name
    outside = ("", "/", "/a", "a/", "a//b", "..", "a/..", "./a", "a\\b", "a\nb", "a\n", "é", "C:a")
    for name in outside:
        assert not is_safe(name), name
