"""The quantease benchmark: its check, and every measurement in small."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks import quantease
from benchmarks.report import CheckFailed
from kernels.quantease import GridCodes, nearest


def test_the_check_passes_and_sees_codes_that_are_only_rounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quantease.check(quantease.report.parser(None).parse_args([]))

    def rounded(weight_OI: Any, *_: Any, **__: Any) -> GridCodes:
        return nearest(weight_OI)

    monkeypatch.setattr(quantease, "fitted", rounded)
    with pytest.raises(CheckFailed, match="is better than the one chosen"):
        quantease.check(quantease.report.parser(None).parse_args([]))

    def shifted(weight_OI: Any, *_: Any, **__: Any) -> GridCodes:
        codes = nearest(weight_OI)
        return replace(codes, zero_O=codes.zero_O + 1)

    monkeypatch.setattr(quantease, "fitted", shifted)
    with pytest.raises(CheckFailed, match="worse than its nearest codes"):
        quantease.check(quantease.report.parser(None).parse_args([]))


def test_a_trainers_layers_are_measured_version_by_version() -> None:
    figures = list(quantease.layers(None, 2_500, 4))
    by_name: dict[str, list[Any]] = {}
    for figure in figures:
        by_name.setdefault(figure.figure, []).append(figure)
    for name in ("nearest_error", "cold_error", "warm_error", "warm_of_cold", "bytes"):
        assert len(by_name[f"quantease.{name}"]) == 4, name
    for name in ("cold_error", "warm_error"):
        assert all(0 < figure.high < 1 for figure in by_name[f"quantease.{name}"])
    changes = {figure.settings["how"]: figure for figure in by_name["quantease.loss_change"]}
    assert changes.keys() == {"nearest", "fitted", "int8"}
    moves = {figure.settings["how"]: figure.value for figure in by_name["quantease.loss_moves"]}
    assert 0 < moves["int8"] < moves["fitted"]


def test_one_layer_is_timed_cold_and_warm() -> None:
    starts = [figure.settings["start"] for figure in quantease.seconds()]
    assert starts == ["cold", "warm"]
