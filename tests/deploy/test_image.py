"""The Dockerfile's steps, as far as they go without Docker."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy.composed import ROOT

FILE = ROOT / "deploy" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """(instruction, the rest) of every step, its lines joined."""
    lines = [line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    return [(*line.split(maxsplit=1),) for line in joined.splitlines() if line.strip()]


def copied() -> list[str]:
    """What is copied from the checkout."""
    steps = [rest.split() for name, rest in instructions() if name == "COPY"]
    return [source for parts in steps if not parts[0].startswith("--") for source in parts[:-1]]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout as the build sees it: what is copied, and not what is ignored."""
    folder = tmp_path_factory.mktemp("context")
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
            )
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_everything_copied_is_there_and_not_ignored() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"]
    assert len(copied()) == 9
    for name in copied():
        assert (ROOT / name).exists()
        hits = [r for r in rules if fnmatch.fnmatch(name, r.removeprefix("!"))]
        assert hits[-1] == f"!{name}", "the last rule that fits decides"


@pytest.mark.parametrize("step", [rest for name, rest in instructions() if name == "RUN"])
def test_every_step_is_a_shell_command(step: str) -> None:
    checked = subprocess.run(["sh", "-n", "-c", step], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_requirements_are_those_of_the_project(context: Path) -> None:
    [step] = [rest for name, rest in instructions() if name == "RUN" and "requirements" in rest]
    [program] = re.findall(r'python -c "(.*?)"', step)
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "{program}"'],
        cwd=context, capture_output=True, text=True, check=True,
    )  # fmt: skip
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert done.stdout.splitlines() == [*project["dependencies"], *extras["parquet"], *extras["s3"]]


def test_torch_is_the_pinned_one(context: Path) -> None:
    for name in ("torch", "triton"):
        sed = subprocess.run(
            ["sed", "-n", f"s/^{name}==//p", "constraints.txt"],
            cwd=context, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert re.fullmatch(r"\d+\.\d+\.\d+\n", sed.stdout)
        assert f"s/^{name}==//p" in FILE.read_text()


def test_the_program_installs_from_what_is_copied_and_every_role_starts(
    context: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, context],
        env={**os.environ, "PIP_BUILD_CONSTRAINT": str(context / "constraints.txt")},
        check=True, cwd=tmp_path,
    )  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import service, trainer; print(service.__file__)"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(site)
    for module in ("service", "service.histories", "trainer", "serving"):
        shown = subprocess.run(
            [sys.executable, "-P", "-m", module, "--help"],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert shown.returncode == 0, shown.stderr
        assert "--help" in shown.stdout


def test_the_image_runs_as_nobody_and_names_no_index() -> None:
    users = [rest for name, rest in instructions() if name == "USER"]
    assert users == ["10001:10001"]
    assert not re.search(r"https?://", FILE.read_text())
    assert [name for name, _ in instructions()].count("FROM") == 2
