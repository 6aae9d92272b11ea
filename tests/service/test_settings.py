"""One TOML file: every mistake in it is an error that names the key and the remedy."""

from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from service.action_types import ActionTypes
from service.errors import SettingsError
from service.model.settings import ModelSettings
from service.settings import SECTIONS, Section, Settings


class Inner(Section):
    depth: int = 1


class Outer(Section):
    seconds: float = Field(1.0, gt=0)
    inner: Inner = Inner()


def load(tmp_path: Path, text: str | bytes) -> Settings:
    path = tmp_path / "freshet.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Settings.load(path)


def test_without_a_file_every_setting_has_its_default() -> None:
    assert Settings.load(None).section("trainer", Outer) == Outer()
    assert Settings().to_dict() == {}


def test_values_of_the_file_reach_their_section(tmp_path: Path) -> None:
    settings = load(tmp_path, "[trainer]\nseconds = 3\n[trainer.inner]\ndepth = 7\n")
    assert settings.section("trainer", Outer) == Outer(seconds=3, inner=Inner(depth=7))
    assert settings.section("serving", Outer) == Outer()
    assert Settings(settings.to_dict()).section("trainer", Outer).inner.depth == 7


def test_a_file_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    settings = load(tmp_path, '[actions.types."gefällt"]\nweight = 2\n')
    assert list(settings.section("actions", ActionTypes).types) == ["gefällt"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"settings file .*none.toml does not exist"):
        Settings.load(tmp_path / "none.toml")


@pytest.mark.parametrize("text", ["[model", "a = = 1", b"\xff\xfe[model]", "[model]\n[model]\n"])
def test_a_file_that_is_not_toml_is_named_with_the_place(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(SettingsError, match=r"freshet.toml is not TOML: "):
        load(tmp_path, text)


def test_an_unknown_section_names_the_nearest_known() -> None:
    with pytest.raises(SettingsError, match=r"\[modle\] is unknown; did you mean model\?"):
        Settings({"modle": {}})
    with pytest.raises(SettingsError, match=rf"unknown; known are {', '.join(SECTIONS)}$"):
        Settings({"zzz": {}})


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"secnds": 1}, r"setting trainer.secnds is unknown; did you mean seconds\?"),
        ({"zzz": 1}, r"setting trainer.zzz is unknown; known are seconds, inner"),
        ({"inner": {"dpeth": 1}}, r"setting trainer.inner.dpeth is unknown; did you mean depth\?"),
        ({"seconds": 0}, "setting trainer.seconds = 0: .* greater than 0"),
        ({"seconds": "soon"}, "setting trainer.seconds = 'soon': .* valid number"),
        ({"inner": 3}, "setting trainer.inner = 3: .*"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named_with_its_value_or_the_nearest_known(
    sections: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        Settings({"trainer": sections}).section("trainer", Outer)


def test_a_section_that_is_no_table_is_refused() -> None:
    with pytest.raises(SettingsError, match="setting trainer = 3: "):
        Settings({"trainer": 3}).section("trainer", Outer)


def test_keys_of_a_table_by_name_are_checked_against_their_own_kind() -> None:
    types = {"types": {"click": {"wieght": 1}}}
    with pytest.raises(SettingsError, match=r"click.wieght is unknown; did you mean weight\?"):
        Settings({"actions": types}).section("actions", ActionTypes)


def test_a_rule_over_several_settings_is_told() -> None:
    with pytest.raises(SettingsError, match=r"setting model.*divisible by 4"):
        Settings({"model": {"window": 30}}).section("model", ModelSettings)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Outer().seconds = 5  # type: ignore[misc]
