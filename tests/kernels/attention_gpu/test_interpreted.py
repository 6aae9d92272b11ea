"""The Triton kernels against the reference, in Triton's interpreter: on CPU tensors, without a GPU.

In a process of its own, since the interpreter is chosen before the kernels are imported. Programs
run one after the other there: the numbers are proven, races are not. bfloat16 is computed on its
values in fp32: the interpreter's own products of it are wrong.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels.attention import Events, Rows, attention
from kernels.gating import gated

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


def test_tensors_on_a_cpu_are_refused_outside_the_interpreter() -> None:
    x, none = torch.zeros(1, 1, 4), torch.zeros(1, dtype=torch.int64)
    ends = torch.tensor([0, 1])
    rows, events = Rows(ends, none, none, none), Events(ends, none)
    with pytest.raises(ValueError, match="the triton backend needs a GPU, the tensors are on cpu"):
        attention(x, x, x, rows, events, None, None, 1, 1.0, "triton")
    with pytest.raises(ValueError, match="the triton backend needs a GPU, the tensors are on cpu"):
        gated(x[0], x[0], backend="triton")


def test_a_server_without_triton_can_do_all_that_a_cpu_can() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, kernels.attention, kernels.gating\n"
        "x = torch.ones(2, 3)\n"
        "assert kernels.gating.gated(x, x).shape == x.shape\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=HERE.parents[2], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
