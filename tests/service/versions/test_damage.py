"""Damage: every file of a version truncated, altered, replaced or gone is refused by name."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from service.errors import VersionError
from service.versions import (
    ChannelCodes,
    Checkpoint,
    FileEntry,
    Manifest,
    Snapshot,
    VersionDirectory,
)

INT8 = {"layers.0.weight": "int8", "slots/item": "int8"}


@pytest.fixture
def version(directory: VersionDirectory, publish: Any) -> Manifest:
    manifest: Manifest = publish(directory, 1)
    return manifest


def paths(directory: VersionDirectory, version: Manifest) -> dict[str, Path]:
    return {name: Path(directory.url, name) for name in version.files}


def test_a_file_truncated_anywhere_is_refused(
    directory: VersionDirectory, version: Manifest
) -> None:
    for name, path in paths(directory, version).items():
        whole = path.read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little")
        for size in (0, 1, 7, 8, 9, header - 1, header, header + 1, len(whole) - 1):
            path.write_bytes(whole[:size])
            for read in (lambda name=name: directory.read(1, name), lambda: directory.verify(1)):
                with pytest.raises(VersionError, match=rf"{name} is truncated: {size} of"):
                    read()
        path.write_bytes(whole)
    assert directory.verify(1) == version


def test_one_flipped_bit_in_any_byte_of_a_file_is_refused(
    directory: VersionDirectory, version: Manifest
) -> None:
    for name, path in paths(directory, version).items():
        whole = path.read_bytes()
        for place in {0, 7, 8, 20, len(whole) // 2, len(whole) - 1}:
            damaged = bytearray(whole)
            damaged[place] ^= 1
            path.write_bytes(damaged)
            with pytest.raises(VersionError, match=rf"{name} was altered"):
                directory.read(1, name)
        path.write_bytes(whole)


def test_a_file_that_grew_is_refused(directory: VersionDirectory, version: Manifest) -> None:
    for name, path in paths(directory, version).items():
        path.write_bytes(path.read_bytes() + b"\0")
        with pytest.raises(VersionError, match=rf"{name} is too long"):
            directory.read(1, name)


def test_a_missing_file_is_refused(any_directory: VersionDirectory, publish: Any) -> None:
    name = publish(any_directory, 1).snapshot[0]
    any_directory._storage.remove(name)
    with pytest.raises(VersionError, match=rf"{name} is missing"):
        Snapshot.read(any_directory, 1)
    with pytest.raises(VersionError, match=rf"{name} is missing"):
        any_directory.verify(1, "snapshot")
    any_directory.verify(1, "checkpoint")


def test_a_file_that_cannot_be_read_is_refused(
    directory: VersionDirectory, version: Manifest
) -> None:
    path = Path(directory.url, version.snapshot[0])
    path.unlink()
    path.mkdir()
    with pytest.raises(VersionError, match="cannot be read"):
        Snapshot.read(directory, 1)


def test_a_file_the_manifest_does_not_name_is_refused(
    directory: VersionDirectory, version: Manifest
) -> None:
    with pytest.raises(VersionError, match=r"version 1 has no file 'manifests/.*json'"):
        directory.read(1, "manifests/00000001.json")
    with pytest.raises(ValueError, match="part 'weights' of a version is unknown"):
        directory.verify(1, "weights")


def test_a_manifest_truncated_anywhere_or_with_any_flipped_bit_is_refused(
    directory: VersionDirectory, version: Manifest
) -> None:
    path = Path(directory.url, "manifests/00000001.json")
    whole = path.read_bytes()
    damaged = [whole[:size] for size in range(len(whole))]
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        damaged.append(bytes(flipped))
    for data in damaged:
        with pytest.raises(VersionError, match=r"manifests/00000001\.json"):
            Manifest.decode("manifests/00000001.json", data)
    path.write_bytes(whole[:-5])
    with pytest.raises(VersionError, match=r"00000001\.json is not a manifest"):
        directory.manifest(1)


def sealed(fields: dict[str, Any]) -> bytes:
    """A manifest with any content and a SHA-256 that fits, as an attacker could write it."""
    body = json.dumps(fields, indent=1).removesuffix("\n}").encode()
    return body + b',\n "sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "data/../../x", "data\\x", "", "data//x", "data/.x", "C:/x"]
)
def test_a_name_that_leaves_the_directory_is_refused(manifest_of: Any, name: str) -> None:
    fields = msgspec.to_builtins(manifest_of(1)) | {
        "files": {name: {"sha256": "0" * 64, "bytes": 1}}
    }
    with pytest.raises(VersionError, match="could lie outside the directory"):
        Manifest.decode("manifests/00000001.json", sealed(fields))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 3}, "format 3, this release reads formats 1 to 2"),
        ({"format": 0}, "format 0, this release reads"),
        ({"format": "1"}, "Expected `int`, got `str`"),
        ({"number": 2}, "is the manifest of version 2"),
        ({"number": -1}, r"Expected `int` >= 0"),
        ({"offsets": {"actions": {"0": "x"}}}, r"Expected `int`, got `str`"),
        ({"snapshot": ["data/x"]}, "lists 'data/x' under snapshot but has no SHA-256"),
        ({"files": {"data/x": {"sha256": "beef", "bytes": 1}}}, "matching regex"),
        ({"files": {"data/x": {"sha256": "0" * 64, "bytes": -1}}}, "Expected `int` >= 0"),
    ],
)
def test_a_manifest_with_impossible_content_is_refused(
    manifest_of: Any, change: dict[str, Any], reason: str
) -> None:
    fields = msgspec.to_builtins(manifest_of(1)) | change
    with pytest.raises(VersionError, match=reason):
        Manifest.decode("manifests/00000001.json", sealed(fields))


def test_json_that_is_no_manifest_is_refused() -> None:
    for data in (b"", b"null", b"[]", b"{}", b"\xff", b'{"format": 1}', b"[" * 100_000):
        with pytest.raises(VersionError, match=r"manifests/00000001\.json"):
            Manifest.decode("manifests/00000001.json", data)


def test_fields_of_a_later_release_are_ignored(manifest_of: Any) -> None:
    fields = msgspec.to_builtins(manifest_of(1)) | {"signature": {"by": "later"}}
    assert Manifest.decode("manifests/00000001.json", sealed(fields)) == manifest_of(1)


def test_a_manifest_with_nan_is_never_committed(
    directory: VersionDirectory, manifest_of: Any
) -> None:
    with pytest.raises(ValueError, match="cannot be read back"), directory.begin(1) as draft:
        draft.commit(manifest_of(1, metrics={"loss": float("nan")}))
    assert directory.numbers() == []


def forge(directory: VersionDirectory, version: Manifest, name: str, data: bytes) -> None:
    """Replace a file and its entry, so that only its content can give it away."""
    files = version.files | {name: FileEntry.of(data)}
    Path(directory.url, name).write_bytes(data)
    manifest = msgspec.structs.replace(version, files=files)
    Path(directory.url, "manifests/00000001.json").write_bytes(manifest.encode())


def test_a_damaged_safetensors_header_is_refused(
    directory: VersionDirectory, version: Manifest
) -> None:
    name = version.snapshot[0]
    whole = Path(directory.url, name).read_bytes()
    size = int.from_bytes(whole[:8], "little")
    damaged = [
        b"", whole[:7], b"\xff" * 8 + whole[8:], whole[:8] + b"[" + whole[9:],
        (size + 1).to_bytes(8, "little") + whole[8:], whole[: 8 + size], whole + b"\0",
        whole.replace(b'"U8"', b'"Z8"', 1), whole.replace(b"data_offsets", b"data_offzets", 1),
        whole.replace(b'"{', b'"[', 1), b"\x80\x04\x95\x00pickle",
    ]  # fmt: skip
    for data in damaged:
        forge(directory, version, name, data)
        with pytest.raises(VersionError, match=rf"{name} is not a safetensors file"):
            Snapshot.read(directory, 1)


Tensors = dict[str, torch.Tensor]


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensors[key] for key in tensors if key != name}


def changed(
    name: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: change(tensors[name])}


def first(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[0] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without("slots/item/keys"), "slot 'item': tensor 'keys' is missing"),
        (without("slots/item/bias"), "slot 'item': tensor 'bias' is missing"),
        (without("slots/item/ids/utf8"), "slot 'item': tensor 'ids/utf8' is missing"),
        (without("dense/layers.0.weight/scale"), "values, or codes and scale, are expected"),
        (changed("slots/item/scale", first(float("nan"))), "slot 'item': scale has NaN"),
        (changed("slots/item/bias", first(float("inf"))), "slot 'item': bias has NaN"),
        (changed("slots/item/scale", lambda t: t[1:]), "scale is torch.float16 .8. where"),
        (changed("slots/item/scale", lambda t: t.float()), "scale is torch.float32"),
        (changed("slots/item/codes", lambda t: t[1:]), "codes is torch.uint8 .8, 8. where"),
        (changed("slots/item/codes", lambda t: t[:, 0]), "codes is torch.uint8"),
        (changed("slots/item/codes", lambda t: t.to(torch.int8)), "codes is torch.int8"),
        (changed("slots/item/keys", lambda t: t[:-1]), "slot 'item'"),
        (changed("slots/item/keys", first(5)), "keys do not begin with the unknown row"),
        (changed("slots/item/keys", lambda t: t[[0, 1, 1, 3, 4, 5, 6, 7, 8]]), "keys repeat"),
        (changed("slots/item/keys", lambda t: t[:0]), "slot 'item'"),
        (changed("slots/item/extra/prior", lambda t: t[1:]), "extra 'prior' is torch.float32"),
        (changed("slots/item/extra/prior", first(float("nan"))), "extra 'prior' has NaN"),
        (changed("slots/item/keys", lambda t: t[0]), "ids/integers is torch.int64 .. where"),
        (changed("slots/item/ids/lengths", first(-2)), "ids/lengths has values below -1"),
        (changed("slots/item/ids/lengths", first(9)), "ids/utf8 is torch.uint8"),
        (changed("slots/item/ids/utf8", first(255)), "utf-8"),
        (changed("dense/layers.0.weight/scale", first(float("nan"))), "scale has NaN"),
        (changed("dense/layers.0.weight/scale", first(-1.0)), "scale has NaN, infinite or neg"),
        (changed("dense/layers.0.weight/scale", lambda t: t[1:]), "scale is torch.float32 .11."),
        (changed("dense/layers.0.weight/codes", lambda t: t.float()), "not an int8 matrix"),
        (changed("dense/layers.0.norm/values", first(float("nan"))), "'layers.0.norm' has NaN"),
    ],
)
def test_a_snapshot_whose_tensors_do_not_fit_is_refused(
    directory: VersionDirectory,
    snapshot_of: Any,
    manifest_of: Any,
    damage: Callable[[Tensors], Tensors],
    reason: str,
) -> None:
    whole = Written()
    snapshot_of(1).quantized(INT8).write(whole)
    with directory.begin(1) as draft:
        draft.write(whole.name, damage(whole.tensors), whole.metadata)
        manifest = draft.commit(manifest_of(1))
    with pytest.raises(VersionError, match=reason) as refusal:
        Snapshot.read(directory, 1)
    assert manifest.snapshot[0] in str(refusal.value)


class Written:
    """In the place of a draft: keeps what is written, for a test to damage it."""

    def write(self, name: str, tensors: Tensors, metadata: dict[str, Any]) -> None:
        self.name, self.tensors, self.metadata = name, dict(tensors), metadata


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "is of kind None, not 'snapshot'"),
        ({"kind": "histories"}, "is of kind 'histories', not 'snapshot' or 'snapshot-delta'"),
        ({"kind": "snapshot-delta", "format": 1}, "'snapshot-delta', which format 1 has not"),
        ({"kind": "snapshot", "format": 3}, "format 3, this release reads formats 1 to 2"),
        ({"kind": "snapshot", "format": 2}, "no 'number' number in its header but None"),
        ({"kind": "snapshot", "format": 2, "number": True}, "no 'number' number in its header"),
        ({"kind": "snapshot", "format": 2, "number": 1, "model": {}}, "no 'at_ms' number in"),
        ({"kind": "snapshot-delta", "format": 2, "number": 1}, "no 'parent' number in its header"),
        (
            {"kind": "snapshot-delta", "format": 2, "number": 1, "parent": 1},
            "takes version 1 to 1, which is not after it",
        ),
        ({"kind": "snapshot", "format": "one"}, "no format number but 'one'"),
        ({"kind": "snapshot", "format": 1}, "no 'model' object in its header"),
        ({"kind": "snapshot", "format": 1, "model": []}, "no 'model' object in its header"),
    ],
)
def test_a_snapshot_of_another_kind_or_format_is_refused(
    directory: VersionDirectory, manifest_of: Any, metadata: dict[str, Any], reason: str
) -> None:
    with directory.begin(1) as draft:
        draft.write("snapshot/base.safetensors", {"a": torch.ones(1)}, metadata)
        draft.commit(manifest_of(1))
    with pytest.raises(VersionError, match=reason):
        Snapshot.read(directory, 1)


def test_a_version_without_a_checkpoint_or_with_a_strange_one_is_refused(
    directory: VersionDirectory, manifest_of: Any
) -> None:
    with directory.begin(1) as draft:
        draft.commit(manifest_of(1))
    with pytest.raises(VersionError, match="version 1 has no checkpoint"):
        Checkpoint.chain(directory, directory.manifest(1))
    for number, metadata, reason in (
        (2, {"kind": "snapshot"}, "is of kind 'snapshot', not 'checkpoint' or 'checkpoint-delta'"),
        (
            3,
            {"kind": "checkpoint", "format": 2, "number": 3, "meta": 3},
            "no 'meta' object in its header",
        ),
    ):
        with directory.begin(number) as draft:
            draft.write("checkpoint/state.safetensors", {"a": torch.ones(1)}, metadata)
            draft.commit(manifest_of(number))
        with pytest.raises(VersionError, match=reason):
            Checkpoint.chain(directory, directory.manifest(number))


def test_channel_codes_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="not an int8 matrix"):
        ChannelCodes(torch.zeros(3, dtype=torch.int8), torch.zeros(3))
