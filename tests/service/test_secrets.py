"""Secrets may lie in files."""

from pathlib import Path

import pytest

from service.errors import SettingsError
from service.secrets import read_secret_files


def test_a_file_becomes_the_variable_that_it_stands_for(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("fk_1 two\n")
    environment = {"FRESHET_API_KEY_FILE": str(tmp_path / "key"), "OTHER_FILE": "/nowhere"}
    read_secret_files(environment)
    assert environment == {"FRESHET_API_KEY": "fk_1 two", "OTHER_FILE": "/nowhere"}


def test_read_twice_it_stays(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    environment = {"FRESHET_API_KEY_FILE": str(tmp_path / "key")}
    read_secret_files(environment)
    read_secret_files(environment)
    assert environment == {"FRESHET_API_KEY": "secret"}


def test_both_are_refused_without_showing_the_secret(tmp_path: Path) -> None:
    environment = {"FRESHET_API_KEY": "hidden", "FRESHET_API_KEY_FILE": str(tmp_path)}
    with pytest.raises(SettingsError, match="both set; keep one") as caught:
        read_secret_files(environment)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "\n", b"\xff"])
def test_a_file_that_holds_no_secret_is_named(tmp_path: Path, content: str | bytes | None) -> None:
    path = tmp_path / "key"
    if isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"FRESHET_API_KEY_FILE = .*key"):
        read_secret_files({"FRESHET_API_KEY_FILE": str(path)})
