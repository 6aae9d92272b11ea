"""Loads one TOML file; every component owns its own frozen settings class.

Environment variables carry addresses and secrets only; components that need them say so.
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from service.errors import SettingsError

SECTIONS = (
    "actions", "stream", "kafka", "intake", "histories", "store", "model", "versions", "trainer",
    "gate", "serving", "limits", "redis",
)  # fmt: skip


class Section(BaseModel):
    """Base of every component's settings: frozen, validated when built, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


S = TypeVar("S", bound=Section)


class Settings:
    """The sections of one settings file, each validated when its owner asks for it."""

    def __init__(self, sections: Mapping[str, Any] | None = None) -> None:
        self._sections = dict(sections or {})
        for name in self._sections:
            if name not in SECTIONS:
                raise SettingsError(
                    f"settings section [{name}] is unknown{_nearest(name, SECTIONS)}"
                )

    @classmethod
    def load(cls, path: Path | None) -> "Settings":
        """Read a TOML file; None means every default."""
        if path is None:
            return cls()
        try:
            return cls(tomllib.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise SettingsError(f"settings file {path} does not exist") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"settings file {path} is not TOML: {error}") from None

    def section(self, name: str, kind: type[S]) -> S:
        """Build one component's settings. Raises SettingsError naming the key and the remedy."""
        try:
            return kind.model_validate(self._sections.get(name, {}))
        except ValidationError as error:
            raise SettingsError(_explain(name, kind, error)) from None

    def has(self, name: str) -> bool:
        """Whether the file has this section, be it empty."""
        return name in self._sections

    def to_dict(self) -> dict[str, Any]:
        """The sections as written, to hand to a child process or a manifest."""
        return dict(self._sections)


def _explain(section: str, kind: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join([section, *map(str, problem["loc"])])
    if problem["type"] == "extra_forbidden":
        *outer, name = problem["loc"]
        return f"setting {where} is unknown{_nearest(str(name), _known(kind, outer))}"
    return f"setting {where} = {problem['input']!r}: {problem['msg']}"


def _known(kind: type[BaseModel], outer: Sequence[Any]) -> list[str]:
    """The keys of the table that lies at `outer` below a section."""
    table: Any = kind
    for name in outer:
        fields = getattr(table, "model_fields", None)
        table = fields[name].annotation if fields else get_args(table)[-1]
    return list(table.model_fields)


def _nearest(name: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {match[0]}?" if match else f"; known are {', '.join(known)}"
