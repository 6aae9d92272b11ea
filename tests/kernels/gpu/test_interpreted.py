"""The Triton kernels against the reference, in Triton's interpreter: on CPU tensors, without a GPU.

In a process of its own, since the interpreter is chosen before the kernels are imported. Programs
run one after the other there: the numbers are proven, races are not.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("triton exists for Linux alone", allow_module_level=True)

HERE = Path(__file__).parent


def test_all_cases_pass_in_the_interpreter() -> None:
    cases = [str(path) for path in sorted(HERE.glob("*_cases.py"))]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--durations=10", "-p", "no:cacheprovider", *cases],
        cwd=HERE.parents[2], env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_cpu_is_refused_outside_the_interpreter() -> None:
    program = "from kernels.key_index import key_index; key_index('triton')"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=HERE.parents[2], env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "backend 'triton' does not run on 'cpu'; use device 'cuda'" in run.stderr
