"""The GPU's part of the store's benchmark, in Triton's interpreter: right, not fast.

In a process of its own: the interpreter is chosen before the kernels are imported.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import dataclasses, json, sys
from benchmarks.stores import gpu
shape = gpu.GpuShape(keys=300, batch=128, dim=16, batches=1)
gpu.check(shape, "cpu")
for figure in gpu.measure(shape, "cpu", runs=1):
    print(json.dumps(dataclasses.asdict(figure)))
heavy = {"pydantic", "msgspec", "rich", "service"} & set(sys.modules)
assert not heavy, f"a machine with a GPU need not have {heavy}"
"""


def test_the_gpu_part_checks_itself_and_measures():
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=Path(__file__).parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    names = {json.loads(line)["figure"] for line in run.stdout.splitlines()}
    assert {f"store.gpu.{name}_keys_per_second" for name in ("lookup", "train", "insert")} <= names
    assert "store.gpu.train_times_slower_than_static" in names
