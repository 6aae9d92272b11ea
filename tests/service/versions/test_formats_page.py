"""docs/formats.md names everything that a version holds."""

from pathlib import Path

import pytest

from service.versions import FileEntry, Manifest, VersionDirectory
from service.versions.manifest import FORMAT

GOLDEN = Path(__file__).parent / "golden" / f"format-{FORMAT}"


@pytest.fixture
def page(pytestconfig: pytest.Config) -> str:
    return (pytestconfig.rootpath / "docs" / "formats.md").read_text()


def test_every_manifest_field_is_described(page: str) -> None:
    for field in (*Manifest.__struct_fields__, *FileEntry.__struct_fields__, "sha256"):
        assert f"`{field}`" in page, field


def test_every_tensor_and_header_key_of_a_snapshot_is_described(page: str) -> None:
    directory = VersionDirectory(GOLDEN)
    for number in directory.numbers():
        manifest = directory.manifest(number)
        file = directory.open(manifest, manifest.only("snapshot"))
        for path in file.tensors:
            group, _, kind = path.split("/", 2)
            described = f"`{group}/NAME/{kind}`".replace("extra/prior", "extra/KEY")
            assert described in page, described
        for key in file.metadata:
            assert f"`{key}`" in page, key


def test_the_current_format_is_in_the_table(page: str) -> None:
    assert f"\n| {FORMAT} | " in page
