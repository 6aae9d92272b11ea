"""The command line itself, and the two commands that become another process."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup as Group
from typer.main import get_command

from service.__main__ import app

ROOT = Path(__file__).parents[3]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("command", ["train", "serve"])
def test_train_and_serve_become_the_process_they_name(command: str, tmp_path: Path) -> None:
    """Settings that cannot be read end both at once, in their own words."""
    (tmp_path / "settings.toml").write_text("[nonsense]\n")
    ended = run(command, "--data", str(tmp_path))
    assert ended.returncode != 0
    assert "settings section [nonsense] is unknown" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_wrong_usage_has_status_2() -> None:
    assert run("nothing").returncode == 2
    assert run("replay").returncode == 2


def commands(group: Group, above: str = "freshet") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, those of groups too."""
    for name, command in group.commands.items():
        if isinstance(command, Group):
            yield from commands(command, f"{above} {name}")
        else:
            yield f"{above} {name}", command


def test_every_command_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    for name, command in commands(get_command(app)):
        group, _, last = name.rpartition(" ")
        assert name in text or (group in text and f"`{last}" in text), name
        for parameter in command.params:
            for option in parameter.opts:
                assert not option.startswith("--") or f"`{option}" in text, f"{name} {option}"


def test_documented_options_exist() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    known = {
        option
        for _, command in commands(get_command(app))
        for parameter in command.params
        for option in parameter.opts
    }
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= known
