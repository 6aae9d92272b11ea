"""The table on the Triton backend, in Triton's interpreter, beside the two others.

In a process of its own: the interpreter is chosen before the kernels are imported.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WALKS = [
    ({"min_count": 2, "max_waiting": 30, "optimizer": "adam"}, None),
    ({"optimizer": "adagrad"}, 25),
]
STEPS = 80
SCRIPT = f"""
from tests.service.store.walk import Kind, walk_of
from tests.service.store.wander import Wanderer
kinds = {{name: Kind(name) for name in ("reference", "numba", "triton")}}
for slot, rows in {WALKS}:
    walk = walk_of(kinds, slot, rows, "evict")
    Wanderer(walk, seed=3, window=60, largest=60).go({STEPS}, check_every=10)
"""


def test_three_backends_walk_side_by_side() -> None:
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=Path(__file__).parents[3], env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
