"""Which stream a settings file means."""

from pathlib import Path

from service.settings import Settings
from service.streams.local import LocalStream, LocalStreamSettings
from service.streams.protocol import Stream


def open_stream(settings: Settings, data: Path) -> Stream:
    """The stream of the Freshet in the directory `data`: the embedded one below it."""
    return LocalStream(data / "stream", settings.section("stream", LocalStreamSettings))
