"""Section [versions]: where the versions of a data folder live."""

from pathlib import Path

from pydantic import Field

from service.settings import Section, Settings
from service.versions.directory import VersionDirectory
from service.versions.sealing import signing_keys


class VersionsSettings(Section):
    """Trainer and servers must say the same."""

    url: str | None = Field(None, description="path or fsspec url; else DIR/versions")


def versions_of(settings: Settings, data: Path) -> VersionDirectory:
    """The versions of a data folder. Raises SettingsError for a signing key that is too short."""
    signing_keys()
    url = settings.section("versions", VersionsSettings).url
    return VersionDirectory(data / "versions" if url is None else url)
