"""Weights on a fitted grid in a snapshot: bit by bit what was fitted, and nothing that was not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.quantease import GridCodes, fitted
from service.errors import VersionError
from service.versions import ChannelCodes, Snapshot, VersionDirectory, fold, grid
from service.versions.dense import from_tensors


def on_grid(outputs: int = 12, inputs: int = 10, seed: int = 0) -> tuple[Tensor, GridCodes]:
    make = torch.Generator().manual_seed(seed)
    weight_OI = torch.randn(outputs, inputs, generator=make)
    x_NI = torch.randn(50, inputs, generator=make) @ torch.randn(inputs, inputs, generator=make)
    return weight_OI, fitted(weight_OI, x_NI.T @ x_NI, outliers=0.05)


def test_it_comes_back_bit_by_bit(any_directory: VersionDirectory, manifest_of: Any) -> None:
    _, codes = on_grid()
    with any_directory.begin(1) as draft:
        Snapshot(1, {}, {"w": codes, "b": torch.ones(3)}, {}).write(draft)
        draft.commit(manifest_of(1))
    read = Snapshot.read(any_directory, 1)
    back = read.dense["w"]
    assert isinstance(back, GridCodes)
    assert len(back.places_S) == 6
    for name in ("codes_OI", "scale_O", "zero_O", "places_S", "values_S"):
        assert torch.equal(getattr(back, name), getattr(codes, name)), name
    assert torch.equal(read.weights()["w"], codes.decode())
    assert read.precision == {"w": "int4"}
    assert sum(t.nbytes for t in grid.to_tensors(back).values()) == back.nbytes


def test_the_bytes_are_those_that_the_page_describes() -> None:
    codes = GridCodes(
        torch.tensor([[15, 0, 3, 9]], dtype=torch.uint8), torch.tensor([0.5]), torch.tensor([-2.0]),
        torch.tensor([1], dtype=torch.int32), torch.tensor([70.0]),
    )  # fmt: skip
    assert grid.to_tensors(codes)["grid4"].tolist() == [[0x0F, 0x93]]
    assert codes.decode().tolist() == [[5.5, 70.0, -0.5, 2.5]]


def test_four_bits_with_one_in_a_hundred_exact_take_a_sixth_of_fp32() -> None:
    weight_OI = torch.randn(256, 256, generator=torch.Generator().manual_seed(1))
    assert fitted(weight_OI, torch.eye(256)).nbytes < 0.16 * weight_OI.nbytes


def test_what_was_fitted_stays_in_four_bits_and_is_decoded_for_any_other_precision() -> None:
    _, codes = on_grid()
    snapshot = Snapshot(1, {}, {"w": codes}, {})
    assert snapshot.quantized({"w": "int4"}).dense["w"] is codes
    eight = snapshot.quantized({"w": "int8"}).dense["w"]
    assert isinstance(eight, ChannelCodes)
    assert torch.equal(eight.decode(), ChannelCodes.encode(codes.decode()).decode())
    assert torch.equal(snapshot.quantized({"w": "fp32"}).weights()["w"], codes.decode())


def test_a_chain_ends_with_the_last_that_was_written() -> None:
    (weight_OI, first), (_, second) = on_grid(seed=0), on_grid(seed=1)
    links = [
        Snapshot(1, {}, {"w": first}, {}),
        Snapshot(2, {}, {"w": second}, {}, parent=1),
        Snapshot(3, {}, {}, {}, parent=2),
    ]
    assert fold(links).dense["w"] is second
    with pytest.raises(VersionError, match="does not fit the base of its chain"):
        fold([links[0], Snapshot(2, {}, {"w": weight_OI[1:]}, {}, parent=1)])


def test_an_odd_number_of_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match="a matrix on a grid has 7 inputs: two codes share"):
        grid.to_tensors(on_grid(inputs=7)[1])


DAMAGE: dict[str, tuple[dict[str, Tensor], str]] = {
    "type of codes": ({"grid4": torch.zeros(12, 5, dtype=torch.int8)}, "grid4 is torch.int8"),
    "shape of codes": ({"grid4": torch.zeros(60, dtype=torch.uint8)}, "not a uint8 matrix"),
    "scale of other channels": ({"scale": torch.ones(11)}, "scale is torch.float32"),
    "negative scale": ({"scale": torch.full((12,), -1.0)}, "scale has negative values"),
    "NaN scale": ({"scale": torch.full((12,), torch.nan)}, "has NaN or infinite values"),
    "type of zero": ({"zero": torch.zeros(12).half()}, "zero is torch.float16"),
    "overflow": ({"scale": torch.full((12,), 3e38)}, "has NaN or infinite values"),
    "type of places": ({"outliers/places": torch.arange(6)}, "outliers/places is torch.int64"),
    "places outside": (
        {"outliers/places": torch.arange(115, 121, dtype=torch.int32)}, "ascending within 0 .. 119",
    ),
    "places below": (
        {"outliers/places": torch.arange(-1, 5, dtype=torch.int32)}, "ascending within 0 .. 119",
    ),
    "a place twice": (
        {"outliers/places": torch.tensor([0, 1, 2, 2, 3, 4], dtype=torch.int32)}, "ascending",
    ),
    "fewer values": ({"outliers/values": torch.ones(5)}, "outliers/values is torch.float32"),
    "infinite values": ({"outliers/values": torch.full((6,), torch.inf)}, "has NaN or infinite"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), DAMAGE.values(), ids=DAMAGE.keys())
def test_what_is_never_written_is_refused_by_name(
    tmp_path: Path, manifest_of: Any, change: dict[str, Tensor], words: str
) -> None:
    directory = VersionDirectory(tmp_path / "versions")
    tensors = grid.to_tensors(on_grid()[1]) | change
    with directory.begin(1) as draft:
        header = {"kind": "snapshot", "format": 2, "number": 1, "model": {}, "at_ms": 0}
        named = {f"dense/w/{kind}": tensor for kind, tensor in tensors.items()}
        draft.write("snapshot/base.safetensors", named, header)
        draft.commit(manifest_of(1))
    with pytest.raises(VersionError, match=f"dense weight 'w': .*{words}"):
        Snapshot.read(directory, 1)


def test_a_grid_without_its_outliers_is_not_taken_for_codes(tmp_path: Path) -> None:
    parts = grid.to_tensors(on_grid()[1])
    del parts["outliers/values"]
    with pytest.raises(ValueError, match="values, or codes and scale, are expected"):
        from_tensors(parts)
