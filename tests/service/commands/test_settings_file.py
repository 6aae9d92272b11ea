"""Writing TOML: what is read back equals what was written."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.commands.settings_file import overlay, write_settings
from service.errors import InputError

SLOW = [HealthCheck.too_slow]  # no test depends on speed
VALUES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.integers(0, 9)),
)
TABLES = st.recursive(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES, max_size=4),
    lambda inner: st.dictionaries(st.text(max_size=5), st.one_of(VALUES, inner), max_size=4),
    max_leaves=8,
)


@settings(derandomize=True, max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(tables=TABLES)
def test_any_tables_are_read_back_as_written(
    tables: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "settings.toml"
    write_settings(path, tables)
    assert tomllib.loads(path.read_text()) == tables


def test_odd_names_and_empty_tables_survive(tmp_path: Path) -> None:
    tables = {"actions": {"types": {"4": {}, "add to cart": {"weight": 1.5}, 'a"b\n': {"x": []}}}}
    write_settings(tmp_path / "new" / "s.toml", tables)
    assert tomllib.loads((tmp_path / "new" / "s.toml").read_text()) == tables


def test_none_is_left_out_and_other_types_are_refused(tmp_path: Path) -> None:
    write_settings(tmp_path / "s.toml", {"store": {"ttl_seconds": None, "dim": 64}})
    assert tomllib.loads((tmp_path / "s.toml").read_text()) == {"store": {"dim": 64}}
    with pytest.raises(InputError, match="type bytes cannot be written"):
        write_settings(tmp_path / "s.toml", {"store": {"dim": b"64"}})


def test_an_overlay_changes_single_keys_of_nested_tables() -> None:
    below = {"model": {"layers": 2, "dim": 64}, "store": {"dim": 64}}
    above = {"model": {"dim": 32}, "trainer": {"seed": 1}, "store": {"dim": 32}}
    assert overlay(below, above) == {
        "model": {"layers": 2, "dim": 32}, "store": {"dim": 32}, "trainer": {"seed": 1}
    }  # fmt: skip
