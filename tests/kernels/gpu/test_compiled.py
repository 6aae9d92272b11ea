"""Every Triton kernel compiles for Ampere and Hopper, without spills; the figures are printed."""

import re
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("triton exists for Linux alone", allow_module_level=True)

from tests.kernels.gpu.compiling import MOST_SHARED, Compiled, compiled, variants

TARGETS = {80: "sm_80", 90: "sm_90a"}


@pytest.mark.parametrize("arch", sorted(TARGETS))
def test_all_kernels_compile_without_spills(arch: int) -> None:
    results = [compiled(variant, arch) for variant in variants()]
    for result in results:
        print(
            f"{result.name}: sm_{arch}, {result.warps} warps, {result.registers} registers, "
            f"{result.spilled_bytes} spilled bytes, {result.shared_bytes} shared bytes"
        )
        assert re.search(rf"^\.target {TARGETS[arch]}$", result.ptx, re.MULTILINE), result.name
        assert result.spilled_bytes == 0, result.name
        assert result.shared_bytes <= MOST_SHARED[arch], result.name
    _rows_travel_in_16_bytes(results)
    _inserts_compare_and_swap(results)
    if arch == 90:
        _steps_fill_a_multiprocessor(results)


def _named(results: list[Compiled], *kernels: str) -> list[Compiled]:
    found = [result for result in results if result.name.partition("(")[0] in kernels]
    assert {result.name.partition("(")[0] for result in found} == set(kernels)
    return found


def _rows_travel_in_16_bytes(results: list[Compiled]) -> None:
    for result in _named(results, "read_rows", "write_rows", "step_pieces"):
        if " WIDTH=1," not in result.name:
            assert result.wide_loads >= 4, result.name
    for result in _named(results, "decode_rows"):
        if "BITS=4" not in result.name:  # a thread's 16 codes are 8 bytes
            assert result.wide_loads >= 1, result.name


def _inserts_compare_and_swap(results: list[Compiled]) -> None:
    for result in _named(results, "claim", "move", "place_all"):
        assert re.search(r"atom\.\S*cas\.b64", result.ptx), result.name
    for result in _named(results, "find"):
        assert "cas" not in result.ptx


def _steps_fill_a_multiprocessor(results: list[Compiled]) -> None:
    """32 programs of one warp share its 65,536 registers."""
    for result in _named(results, "step_pieces"):
        assert result.registers <= 64, result.name
