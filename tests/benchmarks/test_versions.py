"""The versions benchmark: its world, its check, and every measurement in small."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from benchmarks.report import CheckFailed, Figure
from benchmarks.versions import __main__ as versions
from benchmarks.versions import steps, world
from benchmarks.versions.pauses import apply_pause
from benchmarks.versions.precision import FEED, int8_loss
from benchmarks.versions.sizes import delta_bytes, snapshot_bytes
from benchmarks.versions.steps import Steps, step_p99
from benchmarks.versions.waits import waits
from benchmarks.versions.world import TOUCHED, World
from service.model.ranker import ITEM_SLOT
from service.versions import Snapshot

ROWS = 4_000


@pytest.fixture(scope="module")
def small() -> Iterator[World]:
    """A base and two deltas."""
    with world.made(ROWS) as made:
        for _ in range(2):
            made.click()
            made.train()
        yield made


def by_setting(figures: Iterator[Figure], setting: str) -> dict[Any, Figure]:
    return {figure.settings[setting]: figure for figure in figures}


def test_the_check_passes_on_a_sound_product() -> None:
    versions.check(versions_options())


def test_the_check_sees_rows_that_nobody_touched(small: World) -> None:
    manifest = small.newest
    delta = Snapshot.read_file(small.versions, manifest, manifest.snapshot[-1])
    versions._check_touched(small, delta)
    other = World(small.folder, ROWS + TOUCHED, small.sections)
    with pytest.raises(CheckFailed, match="40 rows where 41 were touched"):
        versions._check_touched(other, delta)


def versions_options() -> Any:
    return versions.report.parser(None).parse_args([])


def test_a_round_of_clicks_makes_one_version(small: World) -> None:
    assert small.versions.numbers() == [1, 2, 3]
    assert [len(small.versions.manifest(n).snapshot) for n in (1, 2, 3)] == [1, 2, 3]
    assert small.newest.counters["positives_trained"] == 3 * ROWS / TOUCHED


def test_sizes_are_those_of_the_files(small: World) -> None:
    manifest = small.newest
    halves = by_setting(delta_bytes(small), "half")
    for half, figure in halves.items():
        sizes = [manifest.files[name].bytes for name in manifest.part(half)]
        assert figure.value == sizes[-1] / sizes[0] < 1
        assert figure.settings["touched"] == ROWS / TOUCHED
    parts = by_setting(snapshot_bytes(small), "of")
    whole = Snapshot.read(small.versions, manifest.number).slots[ITEM_SLOT]
    assert parts["rows and keys"].settings["fp32_bytes"] == len(whole) * (8 + 4 * 64)
    assert parts["rows and keys"].value == pytest.approx((8 + 64 + 4) / (8 + 256))
    assert parts["whole file"].value > parts["rows and keys"].value
    assert small.versions.numbers()[-1] == manifest.number  # nothing was committed


def test_the_pause_is_the_longest_of_all_deltas(small: World) -> None:
    (figure,) = apply_pause(small)
    assert figure.runs == 2
    assert 0 < figure.low <= figure.value == figure.high < 0.05


def test_steps_are_told_apart(small: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "FEWEST", 1)
    figures = by_setting(step_p99(small, actions=3_000, runs=1), "making")
    for figure in figures.values():
        count = figure.settings["steps_beside"] + figure.settings["steps_alone"]
        assert count == -(-3_000 // steps.BLOCK_RECORDS) - 1
        assert figure.value > 0
    newest = [small.versions.manifest(number) for number in small.versions.numbers()[-2:]]
    assert {len(manifest.snapshot) for manifest in newest} == {1, 2}  # a base and its delta


def test_too_few_steps_give_no_ratio() -> None:
    with pytest.raises(CheckFailed, match="49 steps beside a version and 60 alone are too few"):
        _ = Steps([0.1] * 49, [0.1] * 60).ratio
    assert Steps([0.2] * 60, [0.1] * 60).ratio == pytest.approx(2)


def test_int8_changes_the_loss_by_little() -> None:
    (figure,) = int8_loss(None, learned=1_500, asked=100, seeds=2)
    assert figure.settings["data"] == FEED
    assert 0 < abs(figure.value) < 0.05
    assert figure.settings["loss"] < np.log(420)  # better than a guess among all items
    assert figure.settings["seed_noise"] > 0


@pytest.mark.long
def test_every_wait_is_measured_with_real_processes() -> None:
    with world.made(ROWS) as made:
        figures = list(waits(made, runs=1))
    assert {figure.figure.removeprefix("versions.") for figure in figures} == {
        "ready_seconds", "commit_to_visible_seconds", "rollback_seconds", "resume_seconds",
    }  # fmt: skip
    assert all(0 < figure.value < 30 for figure in figures)
