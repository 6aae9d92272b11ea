"""Snapshots: what comes back, exactly in fp32 and within stated bounds in int8."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.row_codes import Codes
from service.actions import RESERVED_KEY
from service.versions import ChannelCodes, SlotRows, Snapshot, VersionDirectory


def again(directory: VersionDirectory, snapshot: Snapshot, manifest_of: Any) -> Snapshot:
    with directory.begin(snapshot.number) as draft:
        snapshot.write(draft)
        draft.commit(manifest_of(snapshot.number))
    return Snapshot.read(directory, snapshot.number)


def keys(rows: int) -> torch.Tensor:
    return torch.tensor([RESERVED_KEY, *range(1, rows)])


def test_a_full_precision_snapshot_comes_back_bit_by_bit(
    any_directory: VersionDirectory, snapshot_of: Any, manifest_of: Any
) -> None:
    snapshot = snapshot_of(3)
    read = again(any_directory, snapshot, manifest_of)
    assert read.precision == snapshot.precision == "fp32"
    assert (read.number, read.model) == (3, {"dim": 8, "layers": 1})
    assert set(read.weights()) == set(snapshot.dense)
    for name, weight in snapshot.dense.items():
        assert torch.equal(read.weights()[name], weight)
    rows, back = snapshot.slots["item"], read.slots["item"]
    assert torch.equal(back.keys_R, rows.keys_R)
    assert torch.equal(back.vectors(), rows.vectors())
    assert torch.equal(back.extra["prior"], rows.extra["prior"])
    assert back.ids == ["", 7, "zwölf", *(f"item-{n}" for n in range(3, 9))]


def test_a_quantized_snapshot_comes_back_within_its_bounds(
    any_directory: VersionDirectory, snapshot_of: Any, manifest_of: Any
) -> None:
    full = snapshot_of(3)
    read = again(any_directory, full.quantized(exact=["head.weight"]), manifest_of)
    assert read.precision == "int8"
    for name in ("layers.0.norm", "head.weight"):
        assert torch.equal(read.weights()[name], full.dense[name])
    weight = full.dense["layers.0.weight"]
    bound = weight.abs().amax(1, keepdim=True) / 127 * 0.501
    assert ((read.weights()["layers.0.weight"] - weight).abs() <= bound).all()
    vectors = full.slots["item"].vectors()
    reach = (vectors.amax(1) - vectors.amin(1))[:, None]
    assert ((read.slots["item"].vectors() - vectors).abs() <= reach / 255 + 1e-2 * reach).all()
    assert torch.equal(read.slots["item"].extra["prior"], full.slots["item"].extra["prior"])
    assert read.slots["item"].ids == full.slots["item"].ids


def test_rows_are_gathered_in_any_order_and_repeated(snapshot_of: Any) -> None:
    rows = torch.tensor([3, 0, 3, 8])
    for slot in (snapshot_of(1).slots["item"], snapshot_of(1).quantized().slots["item"]):
        assert len(slot) == 9
        assert slot.width == 8
        assert torch.equal(slot.gather(rows), slot.vectors()[rows])
        assert slot.gather(rows[:0]).shape == (0, 8)


def test_quantizing_twice_changes_nothing(snapshot_of: Any) -> None:
    once = snapshot_of(1).quantized()
    twice = once.quantized()
    assert torch.equal(twice.slots["item"].vectors(), once.slots["item"].vectors())
    for name, weight in once.weights().items():
        assert torch.equal(twice.weights()[name], weight)


def test_a_slot_may_have_no_ids_no_extra_and_only_its_unknown_row(
    any_directory: VersionDirectory, manifest_of: Any
) -> None:
    snapshot = Snapshot(1, {}, {}, {"user": SlotRows(keys(1), torch.ones(1, 4))}).quantized()
    read = again(any_directory, snapshot, manifest_of)
    assert read.slots["user"].ids is None
    assert read.slots["user"].extra == {}
    assert torch.equal(read.slots["user"].vectors(), torch.ones(1, 4))


def test_a_snapshot_of_nothing_can_be_read(
    any_directory: VersionDirectory, manifest_of: Any
) -> None:
    read = again(any_directory, Snapshot(1, {}, {}, {}), manifest_of)
    assert (read.dense, read.slots, read.precision) == ({}, {}, "fp32")


def test_tensors_of_a_later_release_are_ignored(
    directory: VersionDirectory, snapshot_of: Any, manifest_of: Any
) -> None:
    class Draft:
        def write(self, name: str, tensors: dict[str, torch.Tensor], metadata: Any) -> None:
            later = {
                "calibration/a": torch.ones(1),
                "slots/item/touched": torch.ones(9),
                "odd": torch.ones(1),
            }
            with directory.begin(1) as draft:
                draft.write(name, tensors | later, metadata | {"later": "yes"})
                draft.commit(manifest_of(1))

    snapshot_of(1).write(Draft())
    assert torch.equal(
        Snapshot.read(directory, 1).slots["item"].vectors(), snapshot_of(1).slots["item"].vectors()
    )


@given(st.lists(st.integers(0, 2**63 - 1) | st.text(max_size=40), unique=True))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_ids_come_back_whatever_they_are(ids: list[int | str]) -> None:
    found = [key if isinstance(key, int) else -1 - place for place, key in enumerate(ids)]
    keys_R = torch.tensor([RESERVED_KEY, *found])
    rows = SlotRows(keys_R, torch.zeros(len(keys_R), 2), {}, [RESERVED_KEY, *ids])
    assert SlotRows.from_tensors(rows.to_tensors()).ids == [RESERVED_KEY, *ids]


def test_ids_that_cannot_be_kept_are_refused() -> None:
    def rows(ids: list[int | str]) -> SlotRows:
        return SlotRows(keys(3), torch.zeros(3, 2), {}, ids)

    with pytest.raises(ValueError, match="integer id 9 stands at the row of key 2"):
        rows(["", 1, 9]).to_tensors()
    with pytest.raises(ValueError, match="an id has 300 bytes"):
        rows(["", 1, "x" * 300]).to_tensors()
    with pytest.raises(ValueError, match="there are 2 ids for 3 rows"):
        rows(["", 1])


def test_rows_that_no_server_could_use_cannot_be_built() -> None:
    vectors = torch.zeros(3, 2)
    vectors[1, 1] = torch.nan
    with pytest.raises(ValueError, match="values has NaN"):
        SlotRows(keys(3), vectors)
    with pytest.raises(ValueError, match=r"values is torch.float32 \[2, 2\]"):
        SlotRows(keys(3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"keys is torch\.int32"):
        SlotRows(keys(3).int(), torch.zeros(3, 2))
    half = torch.zeros(3, dtype=torch.float16)
    with pytest.raises(ValueError, match="bias has NaN"):
        SlotRows(keys(3), Codes(torch.zeros(3, 2, dtype=torch.uint8), half, half / 0))


def test_a_model_that_no_server_could_use_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="dense weight 'w' has NaN"):
        Snapshot(1, {}, {"w": torch.tensor([1.0, torch.inf])}, {})
    with pytest.raises(ValueError, match="name 'a/b' of a weight or slot"):
        Snapshot(1, {}, {"a/b": torch.ones(1)}, {})
    with pytest.raises(ValueError, match="name '' of a weight or slot"):
        Snapshot(1, {}, {}, {"": SlotRows(keys(1), torch.ones(1, 4))})
    with pytest.raises(ValueError, match=r"exact names \['haed'\], known are \['head'\]"):
        Snapshot(1, {}, {"head": torch.ones(1)}, {}).quantized(exact=["haed"])


@pytest.mark.parametrize("shape", [(1, 1), (3, 0), (0, 4), (5, 7), (63, 65)])
def test_channel_codes_are_off_by_half_a_scale_at_most(shape: tuple[int, int]) -> None:
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * 100
    coded = ChannelCodes.encode(weight)
    assert coded.codes_RI.shape == shape
    assert ((coded.decode() - weight).abs() <= coded.scale_R[:, None] * 0.501).all()
    assert torch.equal(ChannelCodes.encode(-weight).decode(), -coded.decode())


def test_zero_channels_and_exact_powers_stay_exact() -> None:
    weight = torch.zeros(3, 4)
    weight[1] = torch.tensor([127.0, -127.0, 1.0, 0.0])
    weight[2] = 1e-45
    decoded = ChannelCodes.encode(weight).decode()
    assert torch.equal(decoded[:2], weight[:2])
    assert (decoded[2] - weight[2]).abs().max() <= 2e-45


def test_a_channel_with_nan_is_never_encoded() -> None:
    with pytest.raises(ValueError, match="scale has NaN"):
        ChannelCodes.encode(torch.tensor([[1.0, torch.nan]]))


def test_whole_numbers_and_half_precision_weights_are_kept_as_they_are(
    any_directory: VersionDirectory, manifest_of: Any
) -> None:
    dense = {"table": torch.arange(6).reshape(2, 3), "scalar": torch.tensor(2.5).half()}
    read = again(any_directory, Snapshot(1, {}, dict(dense), {}).quantized(), manifest_of)
    assert torch.equal(read.weights()["table"], dense["table"])
    assert torch.equal(read.weights()["scalar"], dense["scalar"])
    assert read.weights()["scalar"].dtype == torch.float16


def test_int8_rows_take_at_most_27_percent_of_fp32_at_width_64() -> None:
    rows = SlotRows(keys(1000), torch.randn(1000, 64)).quantized().to_tensors()
    size = sum(tensor.nbytes for name, tensor in rows.items() if name != "keys")
    assert size <= 0.27 * 1000 * 64 * 4
