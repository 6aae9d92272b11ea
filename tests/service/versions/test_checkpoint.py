"""Checkpoints: every tensor comes back bit by bit."""

from typing import Any

import torch

from service.versions import Checkpoint, VersionDirectory


def test_tensors_of_any_type_shape_and_layout_come_back_bit_by_bit(
    any_directory: VersionDirectory, manifest_of: Any
) -> None:
    base = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    tensors = {
        "float": base,
        "nan": torch.tensor([torch.nan, -torch.inf, -0.0]),
        "bf16": base.bfloat16(),
        "keys": torch.tensor([-(2**63), 2**63 - 1]),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 5),
        "transposed": base.t(),
        "part": base[2:4],
        "parameter": torch.nn.Parameter(base.clone()),
    }
    meta = {"seed": 3, "rng": [1, 2], "nested": {"a": None, "pi": 3.141592653589793}}
    with any_directory.begin(1) as draft:
        Checkpoint(tensors, meta, 1).write(draft)
        manifest = draft.commit(manifest_of(1))
    (read,) = Checkpoint.chain(any_directory, manifest)
    assert read.meta == meta
    assert sorted(read.tensors) == sorted(tensors)
    for name, tensor in tensors.items():
        back = read.tensors[name]
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        assert (
            back.reshape(-1)
            .view(torch.uint8)
            .equal(tensor.detach().contiguous().reshape(-1).view(torch.uint8))
        )


def test_what_was_read_can_be_trained_on(any_directory: VersionDirectory, publish: Any) -> None:
    manifest = publish(any_directory, 1)
    tensors = Checkpoint.chain(any_directory, manifest)[0].tensors
    tensors["step"] += 1
    assert tensors["step"] == 2
    assert Checkpoint.chain(any_directory, manifest)[0].tensors["step"] == 1
