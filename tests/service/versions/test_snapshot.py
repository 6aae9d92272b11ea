"""Snapshots: what comes back, exactly in fp32 and within stated bounds in int8."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.row_codes import Codes
from service.actions import RESERVED_KEY
from service.versions import ChannelCodes, RowIds, SlotRows, Snapshot, VersionDirectory
from service.versions.precision import PRECISIONS

INT8 = {"layers.0.weight": "int8", "slots/item": "int8"}


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
    assert read.precision == snapshot.precision == {}
    assert (read.number, read.model) == (3, {"dim": 8, "layers": 1})
    assert set(read.weights()) == set(snapshot.dense)
    for name, weight in snapshot.dense.items():
        assert torch.equal(read.weights()[name], weight)
    rows, back = snapshot.slots["item"], read.slots["item"]
    assert torch.equal(back.keys_R, rows.keys_R)
    assert torch.equal(back.vectors(), rows.vectors())
    assert torch.equal(back.extra["prior"], rows.extra["prior"])
    assert list(back.ids) == ["", 7, "zwölf", *(f"item-{n}" for n in range(3, 9))]


def test_a_quantized_snapshot_comes_back_within_its_bounds(
    any_directory: VersionDirectory, snapshot_of: Any, manifest_of: Any
) -> None:
    full = snapshot_of(3)
    read = again(any_directory, full.quantized(INT8), manifest_of)
    assert read.precision == INT8
    for name in ("layers.0.norm", "head.weight"):
        assert torch.equal(read.weights()[name], full.dense[name])
    weight = full.dense["layers.0.weight"]
    bound = weight.abs().amax(1, keepdim=True) / 127 * 0.501
    assert ((read.weights()["layers.0.weight"] - weight).abs() <= bound).all()
    vectors = full.slots["item"].vectors()
    reach = (vectors.amax(1) - vectors.amin(1))[:, None]
    assert ((read.slots["item"].vectors() - vectors).abs() <= reach / 255 + 1e-2 * reach).all()
    assert torch.equal(read.slots["item"].extra["prior"], full.slots["item"].extra["prior"])
    assert list(read.slots["item"].ids) == list(full.slots["item"].ids)


def test_rows_are_gathered_in_any_order_and_repeated(snapshot_of: Any) -> None:
    rows = torch.tensor([3, 0, 3, 8])
    for precision in PRECISIONS:
        slot = snapshot_of(1).slots["item"].quantized(precision)
        assert slot.precision == precision
        assert len(slot) == 9
        assert slot.width == 8
        assert torch.equal(slot.gather(rows), slot.vectors()[rows])
        assert slot.gather(rows[:0]).shape == (0, 8)


def test_quantizing_twice_changes_nothing(snapshot_of: Any) -> None:
    once = snapshot_of(1).quantized(INT8)
    twice = once.quantized(INT8)
    assert torch.equal(twice.slots["item"].vectors(), once.slots["item"].vectors())
    for name, weight in once.weights().items():
        assert torch.equal(twice.weights()[name], weight)


def test_a_slot_may_have_no_ids_no_extra_and_only_its_unknown_row(
    any_directory: VersionDirectory, manifest_of: Any
) -> None:
    snapshot = Snapshot(1, {}, {}, {"user": SlotRows(keys(1), torch.ones(1, 4))})
    snapshot = snapshot.quantized({"slots/user": "int8"})
    read = again(any_directory, snapshot, manifest_of)
    assert read.slots["user"].ids is None
    assert read.slots["user"].extra == {}
    assert torch.equal(read.slots["user"].vectors(), torch.ones(1, 4))


def test_a_snapshot_of_nothing_can_be_read(
    any_directory: VersionDirectory, manifest_of: Any
) -> None:
    read = again(any_directory, Snapshot(1, {}, {}, {}), manifest_of)
    assert (read.dense, read.slots, read.precision) == ({}, {}, {})


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
    packed = RowIds.from_list([RESERVED_KEY, *ids])
    rows = SlotRows(keys_R, torch.zeros(len(keys_R), 2), {}, packed)
    back = SlotRows.from_tensors(rows.to_tensors()).ids
    assert back is not None
    assert list(back) == [RESERVED_KEY, *ids]


def test_ids_that_cannot_be_kept_are_refused() -> None:
    def rows(ids: list[int | str]) -> SlotRows:
        return SlotRows(keys(3), torch.zeros(3, 2), {}, RowIds.from_list(ids))

    with pytest.raises(ValueError, match="integer id 9 stands at the row of key 2"):
        rows(["", 1, 9])
    with pytest.raises(ValueError, match="an id has 300 bytes"):
        rows(["", 1, "x" * 300])
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
    with pytest.raises(ValueError, match=r"precision names \['haed'\], known are \['head'\]"):
        Snapshot(1, {}, {"head": torch.ones(1)}, {}).quantized({"haed": "int8"})


@pytest.mark.parametrize("shape", [(1, 1), (3, 0), (0, 4), (5, 7), (63, 65)])
def test_channel_codes_are_off_by_half_a_scale_at_most(shape: tuple[int, int]) -> None:
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * 100
    coded = ChannelCodes.encode(weight)
    assert coded.codes_OI.shape == shape
    assert ((coded.decode() - weight).abs() <= coded.scale_O[:, None] * 0.501).all()
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


def test_whole_numbers_are_kept_and_all_else_becomes_fp32(
    any_directory: VersionDirectory, manifest_of: Any
) -> None:
    dense = {"table": torch.arange(6).reshape(2, 3), "scalar": torch.tensor(2.5).half()}
    read = again(any_directory, Snapshot(1, {}, dict(dense), {}), manifest_of)
    assert read.precision == {"scalar": "fp16"}
    assert torch.equal(read.weights()["table"], dense["table"])
    assert torch.equal(read.weights()["scalar"], torch.tensor(2.5))


def test_int8_rows_take_at_most_27_percent_of_fp32_at_width_64() -> None:
    rows = SlotRows(keys(1000), torch.randn(1000, 64)).quantized("int8").to_tensors()
    size = sum(tensor.nbytes for name, tensor in rows.items() if name != "keys")
    assert size <= 0.27 * 1000 * 64 * 4


@pytest.mark.parametrize(
    ("precision", "bound", "share"),
    [("fp32", 0.0, 1.0), ("fp16", 2e-3, 0.5), ("int8", 0.02, 0.27), ("int4", 0.25, 0.15)],
)
def test_every_precision_comes_back_within_its_bound_and_size(
    any_directory: VersionDirectory,
    manifest_of: Any,
    precision: str,
    bound: float,
    share: float,
) -> None:
    torch.manual_seed(3)
    dense = {"even": torch.randn(5, 64), "odd": torch.randn(3, 7), "norm": torch.randn(64)}
    full = Snapshot(1, {}, dict(dense), {"item": SlotRows(keys(50), torch.randn(50, 64))})
    told = dict.fromkeys(["even", "odd", "slots/item"], precision)
    written = full.quantized(told)
    read = again(any_directory, written, manifest_of)
    assert read.precision == ({} if precision == "fp32" else told)
    for name, weight in full.weights().items():
        found = read.weights()[name]
        assert found.dtype == torch.float32
        assert torch.equal(found, written.weights()[name])
        assert (found - weight).abs().max() <= (0 if name == "norm" else bound)
    vectors, back = full.slots["item"].vectors(), read.slots["item"]
    assert (back.vectors() - vectors).abs().max() <= bound
    assert torch.equal(back.vectors(), written.slots["item"].vectors())
    assert back.vectors().dtype == back.gather(torch.tensor([1])).dtype == torch.float32
    size = sum(t.nbytes for n, t in back.columns().items() if n != "keys")
    assert size <= share * vectors.nbytes
    assert torch.equal(
        read.quantized({"slots/item": "fp32"}).slots["item"].vectors(), back.vectors()
    )


def test_what_a_precision_cannot_hold_is_refused(snapshot_of: Any) -> None:
    full = snapshot_of(1)
    large = torch.full((2, 2), 1e6)
    for precision, words in (
        ({"layers.0.norm": "int8"}, "only a matrix can be int8"),
        ({"layers.0.weight": "int2"}, "'layers.0.weight' cannot be in precision 'int2'; known are"),
        ({"slots/item": "bf16"}, "rows cannot be in precision 'bf16'"),
        ({"slots/user": "int8"}, r"precision names \['slots/user'\], known are"),
    ):
        with pytest.raises(ValueError, match=words):
            full.quantized(precision)
    with pytest.raises(ValueError, match="dense weight 'w' has NaN or infinite"):
        Snapshot(1, {}, {"w": large}, {}).quantized({"w": "fp16"})
    with pytest.raises(ValueError, match="'w' has whole numbers"):
        Snapshot(1, {}, {"w": large.long()}, {}).quantized({"w": "int8"})
    with pytest.raises(ValueError, match="values has NaN or infinite"):
        SlotRows(keys(2), large).quantized("fp16")
    with pytest.raises(ValueError, match="rows are 3 wide: two codes of 4 bits share a byte"):
        SlotRows(keys(2), torch.zeros(2, 3)).quantized("int4")


def test_packed_codes_of_channels_come_back_whatever_their_shape() -> None:
    for shape in ((1, 1), (2, 2), (5, 7), (3, 64), (63, 65)):
        weight = torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * 100
        coded = ChannelCodes.encode(weight, bits=4)
        packed = coded.to_tensors()
        assert packed["codes4"].shape == (shape[0], (shape[1] + 1) // 2)
        back = ChannelCodes.unpacked(packed["codes4"], packed["scale"])
        assert torch.equal(back.decode(), coded.decode())
        assert ((coded.decode() - weight).abs() <= coded.scale_O[:, None] * 0.501).all()
        assert torch.equal(ChannelCodes.encode(-weight, 4).decode(), -coded.decode())


def test_packed_codes_that_are_never_written_are_refused() -> None:
    scale = torch.ones(2)
    for wrong, words in (
        (torch.zeros(2, 2, dtype=torch.int8), "codes4 is torch.int8"),
        (torch.zeros(4, dtype=torch.uint8), "not a uint8 matrix"),
        (torch.zeros(0, 2, dtype=torch.uint8), "not a uint8 matrix"),
        (torch.tensor([[0x11, 0x10], [0x11, 0x01]], dtype=torch.uint8), "codes are beyond -7 .. 7"),
    ):
        with pytest.raises(ValueError, match=words):
            ChannelCodes.unpacked(wrong, scale)
    with pytest.raises(ValueError, match=r"codes are beyond -127 \.\. 127"):
        ChannelCodes(torch.full((2, 2), -128, dtype=torch.int8), scale)


IDS = ["", 7, "zwölf", "i" * 256, -5, "", "日本"]


def test_ids_are_read_one_by_one_in_slices_and_taken() -> None:
    ids = RowIds.from_list(IDS)
    assert (len(ids), list(ids), [ids[row] for row in range(7)]) == (7, IDS, IDS)
    assert (ids[-1], ids[1:4], ids[::-3]) == ("日本", IDS[1:4], IDS[::-3])
    assert list(ids.take(torch.tensor([6, 1, 1, 0]))) == ["日本", 7, 7, ""]
    assert list(RowIds.joined([ids, ids.take(torch.tensor([2]))])) == [*IDS, "zwölf"]
    assert list(RowIds.from_tensors(ids.to_tensors())) == IDS
    assert list(RowIds.from_list([])) == list(ids.take(torch.tensor([], dtype=torch.int64))) == []
    for row in (7, -8):
        with pytest.raises(IndexError):
            ids[row]
        with pytest.raises(IndexError):
            ids.take(torch.tensor([row]))


def test_text_that_is_cut_within_a_character_is_refused() -> None:
    tensors = RowIds.from_list(["aé", "b"]).to_tensors()
    assert tensors["lengths"].tolist() == [3, 1]
    cut = tensors | {"lengths": torch.tensor([2, 2], dtype=torch.int16)}
    with pytest.raises(ValueError, match="an id ends within a character"):
        RowIds.from_tensors(cut)
    with pytest.raises(ValueError, match="no UTF-8"):
        RowIds.from_tensors(tensors | {"utf8": tensors["utf8"].flip(0)})
    with pytest.raises(ValueError, match="'integers' is missing"):
        RowIds.from_tensors({n: t for n, t in tensors.items() if n != "integers"})
    with pytest.raises(ValueError, match=r"ids/integers is torch.int64 \[2\]"):
        RowIds.from_tensors(tensors | {"integers": torch.tensor([1, 2])})
