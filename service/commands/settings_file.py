"""Writes `settings.toml`: the standard library reads TOML but does not write it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from service.errors import InputError
from service.settings import Settings

Tables = dict[str, Any]


def settings_for(base: Path | None, changes: Mapping[str, Any]) -> Tables:
    """The sections of the file `base` (none: every default) with `changes` laid over them."""
    return overlay(Settings.load(base).to_dict(), changes)


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tables:
    """`below` with the keys of `above`, table by table."""
    merged = dict(below)
    for key, value in above.items():
        both_tables = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = overlay(merged[key], value) if both_tables else value
    return merged


def write_settings(path: Path, tables: Mapping[str, Any]) -> None:
    """Write the tables as TOML; what is read back equals them. None values are left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_toml(tables))


def to_toml(tables: Mapping[str, Any]) -> str:
    """The tables as TOML text. None values are left out."""
    return "\n".join(_lines(tables, ())).strip() + "\n"


def _lines(table: Mapping[str, Any], where: tuple[str, ...]) -> Iterator[str]:
    values = {k: v for k, v in table.items() if v is not None and not isinstance(v, Mapping)}
    inner = {k: v for k, v in table.items() if isinstance(v, Mapping)}
    if where and (values or not inner):
        yield f"\n[{'.'.join(map(_key, where))}]"
    for key, value in values.items():
        yield f"{_key(key)} = {_value(value)}"
    for key, value in inner.items():
        yield from _lines(value, (*where, key))


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, str | bool | int | float):
        # JSON's strings, numbers and booleans are TOML's, but for DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    raise InputError(f"a setting of type {type(value).__name__} cannot be written: {value!r}")
