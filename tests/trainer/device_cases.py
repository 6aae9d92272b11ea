"""The trainer with `device = "cuda"` in Triton's interpreter: run by `test_device.py` in a process
of its own, for the interpreter is chosen before the kernels are imported."""

import sys
from pathlib import Path

import torch

from kernels.key_index.gpu import TritonIndex
from kernels.rows.gpu import TritonRows
from tests.trainer.workshop import Workshop, settings, told
from trainer.loop import Trainer

BLOCKS, RECORDS = 3, 20
SMALL = {"block_records": RECORDS, "publish_seconds": 5, "pool_draws": 8, "evaluate_rows": 2}


def workshop(root: Path, device: str, **slot: object) -> Workshop:
    """A stream of a few blocks in which items come, go and come back, and who learns it."""
    made = Workshop(
        root / device,
        settings(
            trainer=SMALL | {"device": device, "join_seconds": 5},
            store={"item": {"ttl_seconds": 15, "min_count": 2, **slot}},
        ),
    )
    made.tell(told(RECORDS * BLOCKS, users=6, items=12))
    return made


def same(found: Trainer, expected: Trainer) -> None:
    """Equal but for the last digits: rows and counts exactly."""
    ours, theirs = found.teacher.state, expected.teacher.state
    assert ours.counters == theirs.counters
    one, other = ours.tensors(), theirs.tensors()
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.is_cpu
        torch.testing.assert_close(tensor, other[name], rtol=2e-3, atol=2e-4, msg=name)


def learns_what_the_cpu_learns(gpu: Trainer, cpu: Trainer) -> None:
    items = gpu.teacher.state.items
    assert isinstance(items._rows.table, TritonRows)
    assert isinstance(items._rows._index, TritonIndex)
    counters = gpu.teacher.state.counters
    assert counters["positives_trained"] > 30
    assert counters["targets_trained"] > 0
    assert items.expired > 0
    same(gpu, cpu)


def goes_on_from_a_version_as_if_never_stopped(again: Workshop, whole: str) -> None:
    again.train(stop_after=BLOCKS // 2)
    assert again.versions.numbers()
    assert again.digest(again.train()) == whole


if __name__ == "__main__":
    root = Path(sys.argv[1])
    torch.set_num_threads(1)
    never_stopped = workshop(root / "whole", "cuda")
    gpu = never_stopped.train()
    learns_what_the_cpu_learns(gpu, workshop(root, "cpu").train())
    again = workshop(root / "again", "cuda")
    goes_on_from_a_version_as_if_never_stopped(again, never_stopped.digest(gpu))
