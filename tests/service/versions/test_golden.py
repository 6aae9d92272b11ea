"""Golden versions: what an earlier release wrote is read by this one, to the last bit."""

import runpy
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from service.versions import Checkpoint, Snapshot, VersionDirectory
from service.versions.tensors import TensorFile

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "format-1"


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    return runpy.run_path(str(HERE / "write_golden.py"))


def test_the_golden_versions_are_whole() -> None:
    directory = VersionDirectory(GOLDEN)
    assert directory.numbers() == [7, 8]
    for number in (7, 8):
        manifest = directory.verify(number)
        assert manifest.offsets == {"actions": {"0": 4113, "1": 12}, "impressions": {"0": 0}}
        assert manifest.topic_ids == {"actions": "t-9f3a", "impressions": "t-01bc"}
        assert (manifest.watermark_ms, manifest.blocks) == (1732096799000, [4096, 17])
        assert manifest.counters == {"trained": 4113, "skipped": 0, "mean_gap_seconds": 0.5}
        assert manifest.metrics == {"loss": 2.25}
        assert manifest.settings == {"model": {"dim": 4}}
    assert (manifest.parent, manifest.block) == (7, 4)
    assert (GOLDEN / "LATEST").read_text() == "8\n"
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 20_000


def test_the_golden_checkpoint_is_read_bit_by_bit(written: dict[str, Any]) -> None:
    expected = written["checkpoint"]()
    for number in (7, 8):
        read = Checkpoint.read(VersionDirectory(GOLDEN), number)
        assert read.meta == expected.meta
        assert set(read.tensors) == set(expected.tensors)
        for name, tensor in expected.tensors.items():
            assert read.tensors[name].dtype == tensor.dtype
            assert torch.equal(read.tensors[name], tensor)


def test_the_golden_histories_are_read_bit_by_bit(written: dict[str, Any]) -> None:
    directory = VersionDirectory(GOLDEN)
    (name,) = directory.manifest(8).histories
    read = directory.read(8, name)
    for key, tensor in written["histories"]().items():
        assert torch.equal(read[key], tensor)


def test_the_golden_snapshot_at_full_precision_is_read_bit_by_bit(written: dict[str, Any]) -> None:
    full = written["snapshot"]()
    read = Snapshot.read(VersionDirectory(GOLDEN), 8)
    assert (read.model, read.precision) == (full.model, "fp32")
    assert set(read.dense) == set(full.dense)
    for name, weight in full.dense.items():
        assert torch.equal(read.weights()[name], weight)
    assert set(read.slots) == {"item", "user"}
    for slot, rows in full.slots.items():
        assert torch.equal(read.slots[slot].vectors(), rows.vectors())


def test_the_golden_quantized_snapshot_is_decoded_by_the_documented_formula(
    written: dict[str, Any],
) -> None:
    full = written["snapshot"]()
    directory = VersionDirectory(GOLDEN)
    raw = directory.read(7, directory.manifest(7).only("snapshot"))
    read = Snapshot.read(directory, 7)
    assert (read.model, read.precision) == (full.model, "int8")
    for name in ("layers.0.norm", "head.weight"):
        assert torch.equal(read.weights()[name], full.dense[name])
    dense = "dense/layers.0.weight"
    weight = raw[f"{dense}/codes"].float() * raw[f"{dense}/scale"][:, None]
    assert torch.equal(read.weights()["layers.0.weight"], weight)
    assert (weight - full.dense["layers.0.weight"]).abs().max() < 2.75 / 127
    for slot, rows in full.slots.items():
        codes, scale, bias = (raw[f"slots/{slot}/{kind}"] for kind in ("codes", "scale", "bias"))
        vectors = bias.float()[:, None] + codes.float() * scale.float()[:, None]
        assert torch.equal(read.slots[slot].vectors(), vectors)
        assert (vectors - rows.vectors()).abs().max() < 0.375 / 255
        assert torch.equal(read.slots[slot].keys_R, rows.keys_R)
        assert read.slots[slot].ids == rows.ids
    assert torch.equal(read.slots["item"].extra["prior"], full.slots["item"].extra["prior"])


def test_this_release_writes_what_the_golden_versions_hold(
    written: dict[str, Any], tmp_path: Path
) -> None:
    """Fails when the format changed without a new number and a new golden folder."""
    written["main"](tmp_path)
    golden, fresh = VersionDirectory(GOLDEN), VersionDirectory(tmp_path)
    for number in (7, 8):
        old, new = golden.manifest(number), fresh.manifest(number)
        for was, name in zip(old.files, new.files, strict=True):
            assert layout(golden.open(old, was)) == layout(fresh.open(new, name))
        plain = {"files": {}, "checkpoint": [], "snapshot": [], "histories": []}
        assert msgspec.structs.replace(new, **plain) == msgspec.structs.replace(old, **plain)


def layout(file: TensorFile) -> dict[str, Any]:
    shapes = {name: (tensor.dtype, tensor.shape) for name, tensor in file.tensors.items()}
    return {"tensors": shapes, "metadata": file.metadata}
