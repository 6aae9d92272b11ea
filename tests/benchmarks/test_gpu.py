"""The command for a GPU machine, without one: sections and report on made-up jobs, every case file
without pytest, and two real sections in Triton's interpreter where nothing but torch, triton, numba
and numpy can be imported."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import cases
from benchmarks.gpu.__main__ import section_lines
from benchmarks.gpu.child import run
from benchmarks.gpu.results import Results
from benchmarks.gpu.sections import CHECKS, MEASURES, SECTIONS, Job, Section
from benchmarks.gpu.targets import TARGETS
from benchmarks.report import Figure

REPOSITORY = Path(__file__).parents[2]
ABSENT = ["pytest", "pydantic", "matplotlib", "msgspec", "rich", "fastapi", "redis", "kafka"]
FLASH = "attention.forward_backward_times_faster_than_flash"
ATTENTION = SECTIONS["attention"]


def figure(name: str, *values: float, unit: str = "", **settings: Any) -> Figure:
    return Figure.of(name, unit, values, **settings)


def lines_of(*jobs: Job, seconds: float = 60.0) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    run(jobs, time.monotonic() + seconds, lambda **line: lines.append(line))
    return json.loads(json.dumps(lines))  # type: ignore[no-any-return]


def fails() -> None:
    raise AssertionError("q: 3.0e-01")


def measures() -> Iterator[Figure]:
    yield figure(FLASH, 0.9, 1.2, 1.1, length=8192, dtype="bfloat16", dim=64)
    yield figure("attention.forward_seconds", 3.0, 1.0, 2.0, unit="s", length=8192)


def written(folder: Path, results: Results) -> tuple[dict[str, Any], str]:
    results.write(folder, 12.0)
    return json.loads((folder / "results.json").read_text()), (folder / "results.md").read_text()


def test_a_crash_in_a_job_keeps_its_traceback_and_the_other_jobs() -> None:
    told = lines_of(Job("first", fails), Job("second", measures))
    failed, *_, done = [line for line in told if "outcome" in line]
    assert (failed["job"], failed["outcome"]) == ("first", "failed")
    assert "in fails" in failed["why"]
    assert "q: 3.0e-01" in failed["why"]
    assert (done["job"], done["outcome"]) == ("second", "done")
    assert [line["figure"]["value"] for line in told if "figure" in line] == [1.1, 2.0]


def test_what_there_is_no_time_for_is_named() -> None:
    told = lines_of(Job("late", fails), seconds=-1.0)
    assert told[1] == {"job": "late", "outcome": "left out", "why": "no time was left"}


def test_best_median_and_spread_stand_beside_the_target(tmp_path: Path) -> None:
    results = Results(quick=False)
    for name in ATTENTION.checked_by:
        results.add(SECTIONS[name], lines_of(Job("a case", lambda: None)))
    results.add(ATTENTION, lines_of(Job("length 8192", measures)))
    told, page = written(tmp_path, results)
    assert told["all_well"]
    assert [t["found"] for t in told["targets"]][:2] == ["1.1, reached", "not measured"]
    assert f"| {FLASH} length=8192 dtype=bfloat16 dim=64 | 1.2 | 1.1 | 0.9 |" in page
    assert "| attention.forward_seconds length=8192 | 1 | 2 | 3 | s | 3 |" in page
    assert page.index("## Correct?") < page.index("## What was to be reached")


def test_figures_that_rest_on_a_failed_check_are_void(tmp_path: Path) -> None:
    results = Results(quick=False)
    results.add(SECTIONS["attention, forms"], lines_of(Job("a case", fails)))
    results.add(ATTENTION, lines_of(Job("length 8192", measures)))
    told, page = written(tmp_path, results)
    assert not told["all_well"]
    assert told["targets"][0]["found"] == "1.1, reached (void)"
    assert "**Void: these checks failed: attention, forms.**" in page
    assert "q: 3.0e-01" in page


def test_a_process_that_dies_or_hangs_costs_its_section_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu.__main__.GRACE_SECONDS", 0.5)
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\necho no memory >&2\nkill -SEGV $$\n")
    hanging = tmp_path / "hanging"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    for program, why in ((killed, "ended with status -11\nno memory"), (hanging, "after 1 s")):
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        results = Results(quick=True)
        results.add(ATTENTION, section_lines(ATTENTION, 0.5, quick=True))
        told, page = written(tmp_path, results)
        assert not told["all_well"]
        assert why in page


def test_jobs_that_a_dead_process_did_not_end_are_left_out() -> None:
    results = Results(quick=True)
    lines = [{"jobs": ["a", "b"]}, {"job": "a", "outcome": "done"}, {"broke_off": "status -9"}]
    results.add(ATTENTION, lines)
    assert [(line["job"], line["outcome"]) for line in results._jobs("attention")] == [
        ("a", "done"), ("b", "left out"),
    ]  # fmt: skip


def test_every_target_is_a_figure_of_a_section_and_every_check_exists() -> None:
    assert {target.section for target in TARGETS} <= {section.name for section in MEASURES}
    checks = {section.name for section in CHECKS}
    assert all(set(section.checked_by) <= checks for section in MEASURES)
    sources = " ".join(section.source for section in CHECKS).split()
    files = [*REPOSITORY.glob("tests/kernels/*gpu/*_cases.py")]
    found = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in files}
    assert found == set(sources)


CASES = """
import pytest
SEEN, owner = [], type("Owner", (), {"x": 1})
@pytest.fixture(autouse=True)
def _changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "x", 2)
@pytest.mark.parametrize("a", [1, 2])
@pytest.mark.parametrize(("b", "c"), [(3, 4)], ids=["pair"])
def test_of_all(a, b, c):
    assert owner.x == 2
    SEEN.append((a, b, c))
def test_that_fails():
    with pytest.raises(ValueError, match="this"):
        raise ValueError("that")
def test_that_nothing_is_raised():
    with pytest.raises(ValueError):
        pass
"""


def test_cases_run_without_pytest_as_they_do_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_cases.py").write_text(CASES)
    monkeypatch.syspath_prepend(tmp_path)
    found = dict(cases.cases_of("some_cases"))
    assert list(found) == [
        "of all [1-pair]", "of all [2-pair]", "that fails", "that nothing is raised",
    ]  # fmt: skip
    for name, case in found.items():
        if name.startswith("of"):
            case()
        else:
            with pytest.raises(AssertionError):
                case()
    module = sys.modules["some_cases"]
    assert module.SEEN == [(1, 3, 4), (2, 3, 4)]
    assert module.owner.x == 1
    assert sys.modules["pytest"] is pytest


def bare_environment(folder: Path) -> dict[str, str]:
    """The interpreter, and nothing else that could be imported."""
    blocked = f"import sys\nfor name in {ABSENT}: sys.modules[name] = None\n"
    (folder / "sitecustomize.py").write_text(blocked)
    return {
        **os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def test_sections_run_with_torch_triton_numba_and_numpy_alone(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    out = tmp_path / "results"
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--out", out, "--only", "gating",
         "--only", "layer"],
        cwd=REPOSITORY, env=bare_environment(tmp_path), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    told = json.loads((out / "results.json").read_text())
    by_name = {section["section"]: section for section in told["sections"]}
    assert ended.returncode == 0, by_name
    assert len(by_name["gating"]["jobs"]) == 12
    names = {figure["figure"] for figure in by_name["layer"]["figures"]}
    assert "layer.stochastic.times_faster_than_transformer" in names
    assert by_name["rows"]["outcome"] == "not run"


NAMES = """
from benchmarks.gpu.sections import SECTIONS
for section in SECTIONS.values():
    assert section.name == "flex attention" or list(section.jobs(quick=True)), section
print("all")
"""


def test_every_section_names_its_jobs_with_torch_triton_numba_and_numpy_alone(
    tmp_path: Path,
) -> None:
    pytest.importorskip("triton")
    ended = subprocess.run(
        [sys.executable, "-c", NAMES], cwd=REPOSITORY, env=bare_environment(tmp_path),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.stdout == "all\n", ended.stderr


@pytest.mark.long
def test_the_whole_command_in_the_interpreter(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--out", tmp_path / "results"],
        cwd=REPOSITORY, env=bare_environment(tmp_path), capture_output=True, text=True,
        timeout=900, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, (tmp_path / "results/results.md").read_text()


def test_a_section_without_a_gpu_says_so(tmp_path: Path) -> None:
    section: Section = SECTIONS["device"]
    results = Results(quick=True)
    lines = [{"job": "start", "outcome": "failed", "why": "there is no GPU that torch could use"}]
    results.add(section, lines)
    assert "there is no GPU" in written(tmp_path, results)[1]
