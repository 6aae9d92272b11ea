"""The rules of the house: layers, folders, names, the files that every project has."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".sh", ""}


def tracked() -> list[Path]:
    """The project's own text files: those that git has or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.suffix in TEXT and path.is_file()]


def test_imports_go_downwards_only() -> None:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    checked = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_the_commands_import_neither_trainer_nor_serving() -> None:
    program = (
        "import sys, service.__main__; "
        "sys.exit(', '.join({'trainer', 'serving', 'torch'} & set(sys.modules)) or 0)"
    )
    checked = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_tests_are_no_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_the_readme_names_every_folder_at_the_top() -> None:
    readme = (ROOT / "README.md").read_text()
    folders = {path.relative_to(ROOT).parts[0] for path in tracked() if path.parent != ROOT}
    missing = {name for name in folders if not name.startswith(".") and f"{name}/" not in readme}
    assert not missing


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    # /opt/kafka is where Kafka's own image has its programs.
    machine = re.compile(r"(?<![\w.])/(?:work|home|root|Users|mnt|opt(?!/kafka/))/\w")
    named = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if machine.search(line)
    ]
    assert not named


def test_no_file_names_a_package_index() -> None:
    index = re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host|simple/")
    files = [ROOT / "Makefile", ROOT / "constraints.txt", ROOT / "pyproject.toml"]
    assert not [path.name for path in files if index.search(path.read_text())]


def test_every_module_and_package_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for package in ("kernels", "service", "trainer", "serving", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        if not path.read_text().lstrip().startswith(('"""', 'r"""'))
    ]
    assert not silent


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for extra in project["optional-dependencies"].values() for name in extra]
    wanted = {re.split(r"[\[>=<]", name)[0] for name in [*project["dependencies"], *extras]}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert wanted - pinned == {"freshet"}


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for target in ("help", "demo", "test", "test-stack", "test-long", "lint", "format", "audit"):
        assert f"make {target} " in listed.stdout
