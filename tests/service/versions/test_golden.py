"""Golden versions: what an earlier release wrote is read by this one, to the last bit."""

import runpy
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from service.versions import Checkpoint, Decisions, Snapshot, VersionDirectory, logs
from service.versions.formats import FORMAT
from service.versions.tensors import TensorFile

HERE = Path(__file__).parent
FIRST = HERE / "golden" / "format-1"
SECOND = HERE / "golden" / "format-2"


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    return runpy.run_path(str(HERE / "write_golden.py"))


@pytest.mark.parametrize(
    ("golden", "numbers", "kilobytes"), [(FIRST, [7, 8], 20), (SECOND, [7, 8, 9, 10], 25)]
)
def test_the_golden_versions_are_whole(golden: Path, numbers: list[int], kilobytes: int) -> None:
    directory = VersionDirectory(golden)
    assert directory.numbers() == numbers
    for number in numbers:
        manifest = directory.verify(number)
        assert manifest.offsets == {"actions": {"0": 4113, "1": 12}, "impressions": {"0": 0}}
        assert manifest.topic_ids == {"actions": "t-9f3a", "impressions": "t-01bc"}
        assert (manifest.watermark_ms, manifest.blocks) == (1732096799000, [4096, 17])
        assert manifest.counters == {"trained": 4113, "skipped": 0, "mean_gap_seconds": 0.5}
        assert manifest.metrics == {"loss": 2.25}
        assert manifest.settings == {"model": {"dim": 4}}
    assert manifest.parent == numbers[-2]
    assert (golden / "LATEST").read_text() == f"{numbers[-1]}\n"
    size = sum(path.stat().st_size for path in golden.rglob("*") if path.is_file())
    assert size < 1000 * kilobytes


def test_a_manifest_of_format_1_says_nothing_of_what_came_later() -> None:
    manifest = VersionDirectory(FIRST).manifest(8)
    assert (manifest.snapshot_parent, manifest.step, manifest.held) == (None, None, None)
    assert (manifest.decisions, manifest.precision) == (0, {})
    assert VersionDirectory(FIRST).decisions() == Decisions()
    assert VersionDirectory(FIRST).target() == 8


def equal(read: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    assert set(read) == set(expected)
    return all(
        read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)
        for name, tensor in expected.items()
    )


@pytest.mark.parametrize(("golden", "number"), [(FIRST, 7), (FIRST, 8), (SECOND, 10)])
def test_the_golden_checkpoints_are_read_bit_by_bit(
    written: dict[str, Any], golden: Path, number: int
) -> None:
    directory, expected = VersionDirectory(golden), written["checkpoint"]()
    base, *deltas = Checkpoint.chain(directory, directory.manifest(number))
    assert (base.meta, base.parent) == (expected.meta, None)
    assert equal(base.tensors, expected.tensors)
    assert [delta.number for delta in deltas] == ([8, 9, 10] if golden == SECOND else [])
    for delta in deltas:
        change = written["change"](delta.number)
        assert (delta.meta, delta.parent) == (change.meta, delta.number - 1)
        assert equal(delta.tensors, change.tensors)


@pytest.mark.parametrize(("golden", "number"), [(FIRST, 8), (SECOND, 10)])
def test_the_golden_histories_are_read_bit_by_bit(
    written: dict[str, Any], golden: Path, number: int
) -> None:
    directory = VersionDirectory(golden)
    (name,) = directory.manifest(number).histories
    assert equal(directory.read(number, name), written["histories"]())


def test_the_golden_snapshot_at_full_precision_is_read_bit_by_bit(written: dict[str, Any]) -> None:
    full = written["snapshot"]()
    read = Snapshot.read(VersionDirectory(FIRST), 8)
    assert (read.number, read.at_ms, read.model) == (8, 1732096799000, full.model)
    assert read.precision == {}
    assert equal(read.weights(), full.dense)
    assert set(read.slots) == {"item", "user"}
    for slot, rows in full.slots.items():
        assert torch.equal(read.slots[slot].vectors(), rows.vectors())


def test_the_golden_quantized_snapshot_is_decoded_by_the_documented_formula(
    written: dict[str, Any],
) -> None:
    full = written["snapshot"]()
    directory = VersionDirectory(FIRST)
    raw = directory.read(7, directory.manifest(7).snapshot[0])
    read = Snapshot.read(directory, 7)
    assert (read.model, read.precision) == (full.model, written["INT8"])
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
    assert list(read.slots["item"].ids) == list(full.slots["item"].ids)
    assert torch.equal(read.slots["item"].extra["prior"], full.slots["item"].extra["prior"])


def test_packed_codes_are_decoded_by_the_documented_formula(written: dict[str, Any]) -> None:
    directory = VersionDirectory(SECOND)
    raw = directory.read(7, directory.manifest(7).snapshot[0])
    read, full = Snapshot.read(directory, 7), written["chain"]()[0]
    assert read.precision == written["ALL"]
    bytes_OB, scale_O = (raw[f"dense/layers.1.weight/{kind}"] for kind in ("codes4", "scale"))
    assert bytes_OB.shape == (2, 2)
    assert not (bytes_OB[:, 1] >> 4).any()
    codes_OI = torch.stack([bytes_OB[:, 0] & 15, bytes_OB[:, 0] >> 4, bytes_OB[:, 1] & 15], 1)
    weight = (codes_OI.float() - 8) * scale_O[:, None]
    assert torch.equal(read.weights()["layers.1.weight"], weight)
    assert (weight - full.dense["layers.1.weight"]).abs().max() <= 1.25 / 7 / 2
    bytes_RB, scale, bias = (raw[f"slots/user/{kind}"] for kind in ("codes4", "scale", "bias"))
    codes_RD = torch.stack([bytes_RB & 15, bytes_RB >> 4], 2).flatten(1)
    vectors = bias.float()[:, None] + codes_RD.float() * scale.float()[:, None]
    assert torch.equal(read.slots["user"].vectors(), vectors)
    assert raw["dense/layers.0.norm/values"].dtype == torch.float16
    assert raw["slots/place/values"].dtype == torch.float16


def test_the_golden_chain_folds_to_what_was_in_it(written: dict[str, Any]) -> None:
    directory = VersionDirectory(SECOND)
    base, first, second = map(written["quantized"], written["chain"]())
    by_number = {number: Snapshot.read(directory, number) for number in directory.numbers()}
    items = {number: list(read.slots["item"].ids) for number, read in by_number.items()}
    assert items == {
        7: ["", 7, "zwölf", "i-62"],
        8: ["", 7, "i-62", 11],
        9: ["", "i-62", 11],
        10: ["", "i-62", 11],
    }
    assert [by_number[n].slots["user"].keys_R[1:].tolist() for n in items] == [
        [7],
        [7, 8],
        [8],
        [8],
    ]
    held, counts = by_number[9], torch.tensor([[0.0, 0.25], [0.5, 0.75], [1.0, 1.25]])
    item, written_rows = held.slots["item"], first.slots["item"]
    assert torch.equal(item.vectors()[1:], written_rows.vectors()[1:])
    assert torch.equal(item.vectors()[0], second.slots["item"].vectors()[0])
    assert torch.equal(item.extra["counts"], logs.decode(logs.encode(counts)))
    assert equal(by_number[8].weights(), base.weights())
    assert equal(held.weights(), second.weights())
    assert (held.number, held.at_ms) == (9, 1732096801000)


def test_the_golden_step_leads_from_the_version_before_to_its_own(written: dict[str, Any]) -> None:
    directory = VersionDirectory(SECOND)
    manifest = directory.manifest(10)
    assert (manifest.snapshot_parent, len(manifest.snapshot)) == (9, 1)
    assert manifest.step not in manifest.snapshot
    step = Snapshot.read_file(directory, manifest, manifest.step)
    assert (step.number, step.parent) == (10, 9)
    assert sorted(step.removed["item"].tolist()) == [-5, 11]


def test_the_golden_decisions_are_obeyed() -> None:
    directory = VersionDirectory(SECOND)
    assert directory.decisions() == Decisions(
        generation=5, pinned=None, pin_generation=5, branches=((3, 9),), released=frozenset({9}),
        erased={-5: 1732096799000}, erase_generation=4,
    )  # fmt: skip
    assert directory.manifest(9).held == "its loss rose"
    assert directory.servable() == [7, 8, 9, 10]
    assert directory.target() == 10


def test_this_release_writes_what_the_golden_versions_hold(
    written: dict[str, Any], tmp_path: Path
) -> None:
    """Fails when the format changed without a new number and a new golden folder."""
    written["main"](tmp_path)
    golden, fresh = VersionDirectory(GOLDEN_NOW), VersionDirectory(tmp_path)
    assert golden.numbers() == fresh.numbers()
    for number in golden.numbers():
        old, new = golden.manifest(number), fresh.manifest(number)
        for was, name in zip(old.files, new.files, strict=True):
            assert layout(golden.open(old, was)) == layout(fresh.open(new, name))
        plain = {"files": {}, "checkpoint": [], "snapshot": [], "histories": [], "step": None}
        assert msgspec.structs.replace(new, **plain) == msgspec.structs.replace(old, **plain)
    assert golden.decisions() == fresh.decisions()


GOLDEN_NOW = HERE / "golden" / f"format-{FORMAT}"


def layout(file: TensorFile) -> dict[str, Any]:
    shapes = {name: (tensor.dtype, tensor.shape) for name, tensor in file.tensors.items()}
    return {"tensors": shapes, "metadata": file.metadata}
