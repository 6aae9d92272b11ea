"""The shipped configurations compile for Ampere and Hopper, without spills; figures are printed."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("triton exists for Linux alone", allow_module_level=True)

from tests.kernels.attention_gpu.compiling import (
    MOST_SHARED,
    Variant,
    compiled,
    configurations,
    gates_of,
    kernels_of,
)

REPOSITORY = Path(__file__).parents[3]


def assert_they_fit(variants: Iterable[Variant]) -> None:
    """All that do not are named."""
    unfit = []
    for variant in variants:
        result = compiled(variant)
        line = (
            f"{result.name}: sm_{result.arch}, {result.warps} warps, {result.registers} registers, "
            f"{result.spilled_bytes} spilled bytes, {result.shared_bytes} shared bytes"
        )
        print(line)
        fits = result.spilled_bytes == 0 and result.shared_bytes <= MOST_SHARED[result.arch]
        if variant.kind == "bf16" and variant.arch == 90 and "PRECISION" in variant:
            fits = fits and result.warp_group_products > 0 and not result.serialized
        if not fits:
            unfit.append(line)
    assert not unfit


def test_kernels_of_the_usual_widths_compile_for_hopper_without_spills() -> None:
    assert_they_fit(kernels_of("bf16", 90, 64, 64))


def test_a_kernel_of_each_other_kind_compiles_without_spills() -> None:
    forward, *_ = kernels_of("bf16", 80, 64, 64)
    exact, *_ = kernels_of("fp32", 80, 32, 32)
    assert_they_fit([forward, exact, *gates_of(512)])


def test_a_whole_layer_launches_what_a_gpu_would_take() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.attention_gpu.launches"], cwd=REPOSITORY,
        env={**os.environ, "TRITON_INTERPRET": "0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [
        "_reach", "forward", "gated_forward",
        "forward", "backward_rows", "backward_near", "backward_keys",
        "gated_forward", "gated_backward",
    ]  # fmt: skip


@pytest.mark.long
def test_every_shipped_configuration_compiles_without_spills() -> None:
    assert_they_fit(configurations())
