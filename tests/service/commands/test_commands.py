"""The command line itself, and the two commands that become another process."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
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


def test_every_command_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"freshet {name}" in text
        for parameter in command.params:
            for option in parameter.opts:
                assert not option.startswith("--") or f"`{option}" in text, f"{name} {option}"


def test_documented_options_exist() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    known = {
        option
        for command in get_command(app).commands.values()  # type: ignore[attr-defined]
        for parameter in command.params
        for option in parameter.opts
    }
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= known
