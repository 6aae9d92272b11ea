"""What lies where under `--data DIR`, and which processes work on it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.commands.processes import Child
from service.errors import InputError


@dataclass(frozen=True)
class DataFolder:
    """One Freshet: `stream/`, `versions/`, `logs/` and `settings.toml`."""

    root: Path

    @property
    def stream(self) -> Path:
        """The embedded stream."""
        return self.root / "stream"

    @property
    def settings(self) -> Path:
        """What trainer and server read, where it exists."""
        return self.root / "settings.toml"

    @property
    def end(self) -> Path:
        """Says to a trainer started with `--until-end` that nothing more will be appended."""
        return self.stream / "END"

    @property
    def status(self) -> Path:
        """What the trainer says about itself when it ends."""
        return self.root / "trainer.json"

    @property
    def trained_records(self) -> int:
        """How many stream records the newest version has learned from, those of items apart; 0
        without one."""
        manifest = self.newest_manifest()
        counters = manifest["counters"] if manifest else {}
        return int(counters.get("records", 0) - counters.get("items", 0))

    def newest_manifest(self) -> dict[str, Any] | None:
        """The newest version's manifest as plain JSON; None without a version."""
        manifests = sorted((self.root / "versions" / "manifests").glob("*.json"))
        found: dict[str, Any] | None = json.loads(manifests[-1].read_text()) if manifests else None
        return found

    def log(self, name: str) -> Path:
        """The log of one process."""
        return self.root / "logs" / f"{name}.log"

    def require_no_stream(self, remedy: str) -> None:
        """Raise InputError with the remedy if something was appended here before."""
        if self.stream.exists():
            raise InputError(f"{self.root} already holds a stream; {remedy}")

    def arguments(self, settings: Path | None = None) -> list[str]:
        """The options that trainer and server share."""
        chosen = settings or (self.settings if self.settings.exists() else None)
        return ["--data", str(self.root), *(["--settings", str(chosen)] if chosen else [])]

    def trainer(self, metrics_port: int, *more: str) -> Child:
        """The trainer, its metrics on `metrics_port`; `more` are further arguments."""
        arguments = [*self.arguments(), "--metrics-port", str(metrics_port), *more]
        return Child("trainer", arguments, self.log("trainer"), metrics_port)

    def server(self, port: int) -> Child:
        """The server on 127.0.0.1."""
        arguments = [*self.arguments(), "--port", str(port)]
        return Child("serving", arguments, self.log("serving"), port)
