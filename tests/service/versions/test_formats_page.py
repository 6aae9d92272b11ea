"""docs/formats.md names everything that a version holds."""

import json
import re
from pathlib import Path

import pytest

from service.versions import FileEntry, Manifest, VersionDirectory
from service.versions.decisions import KINDS
from service.versions.formats import FORMAT

GOLDEN = Path(__file__).parent / "golden" / f"format-{FORMAT}"


@pytest.fixture
def page(pytestconfig: pytest.Config) -> str:
    return (pytestconfig.rootpath / "docs" / "formats.md").read_text()


def test_every_manifest_field_is_described(page: str) -> None:
    for field in (*Manifest.__struct_fields__, *FileEntry.__struct_fields__, "sha256"):
        assert f"`{field}`" in page, field


def test_every_tensor_and_header_key_is_described(page: str) -> None:
    directory, kinds = VersionDirectory(GOLDEN), set()
    for number in directory.numbers():
        manifest = directory.manifest(number)
        for name in {*manifest.snapshot, *manifest.checkpoint, manifest.step} - {None}:
            file = directory.open(manifest, name)
            kinds.add(file.metadata["kind"])
            assert f"`{name.split('/', 2)[2]}`" in page, name
            for key in file.metadata:
                assert f"`{key}`" in page, key
            for path in file.tensors if "/snapshot/" in name else ():
                group, _, kind = path.split("/", 2)
                kind = re.sub("^(extra|logs)/.*", r"\1/KEY", kind)
                assert f"`{group}/NAME/{kind}`" in page, path
    assert kinds == {"checkpoint", "checkpoint-delta", "snapshot", "snapshot-delta"}
    for kind in kinds:
        assert f"`{kind}`" in page, kind


def test_every_kind_and_field_of_a_decision_is_described(page: str) -> None:
    files = [json.loads(path.read_text()) for path in sorted((GOLDEN / "decisions").iterdir())]
    assert {file["decision"]["kind"] for file in files} == set(KINDS)
    for file in files:
        for field in (*file, *file["decision"], file["decision"]["kind"]):
            assert f"`{field}`" in page, field


def test_the_current_format_is_in_the_table(page: str) -> None:
    assert f"\n| {FORMAT} | " in page
