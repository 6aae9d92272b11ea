"""What `freshet versions show N` says: everything of a manifest that a person wants to know."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.commands.version_list import Listed, Standing, rough, utc
from service.versions import Manifest, VersionDirectory


@dataclass(frozen=True)
class VersionPage:
    """One version: its standing, and its manifest as it was committed."""

    listed: Listed
    manifest: Manifest

    @classmethod
    def of(cls, directory: VersionDirectory, number: int) -> "VersionPage":
        """Read the manifest. Raises VersionError if it cannot be read."""
        manifest = directory.manifest(number)
        return cls(Standing.of(directory).listed(manifest), manifest)

    def to_json(self) -> str:
        """One JSON object: the standing as `freshet versions ls` has it, and the manifest."""
        return json.dumps({**asdict(self.listed), "manifest": msgspec.to_builtins(self.manifest)})

    def show(self, console: Console) -> None:
        """Draw it as tables."""
        head = _table(f"version {self.manifest.number}", ("", ""))
        for name, value in self._facts():
            head.add_row(name, Text(value))
        console.print(head)
        self._show_files(console)
        manifest = self.manifest
        tables: dict[str, Mapping[str, Any]] = {
            "counters": manifest.counters, "metrics": manifest.metrics,
            "precision": manifest.precision, "settings": manifest.settings,
        }  # fmt: skip
        for title, values in tables.items():
            if values:
                _show(console, title, values.items())

    def _facts(self) -> Iterator[tuple[str, str]]:
        listed, manifest = self.listed, self.manifest
        yield "state", ", ".join(listed.state) or "neither served nor held"
        yield "created", f"{utc(manifest.created_at)} UTC, {rough(listed.age_seconds)} ago"
        yield "parent", "none" if manifest.parent is None else str(manifest.parent)
        yield "block", f"{manifest.block:,}"
        since = f"{sum(manifest.blocks):,} records in {len(manifest.blocks):,} blocks"
        yield "since the parent", since
        yield "watermark", f"{utc(manifest.watermark_ms / 1000)} UTC"
        for topic, partitions in manifest.offsets.items():
            ends = ", ".join(f"{partition}: {offset:,}" for partition, offset in partitions.items())
            yield f"next of {topic}", ends
        yield "checkpoint", f"{listed.checkpoint}, {listed.checkpoint.files} files"
        yield "snapshot", f"{listed.snapshot}, {listed.snapshot.files} files"
        if manifest.snapshot_parent is not None:
            yield "snapshot continues", f"version {manifest.snapshot_parent}"
        yield "decisions known", str(manifest.decisions)
        yield "format", str(manifest.format)

    def _show_files(self, console: Console) -> None:
        table = _table("files", ("file", "bytes", "SHA-256"))
        table.columns[1].justify = "right"
        for name, entry in self.manifest.files.items():
            table.add_row(Text(name), f"{entry.bytes:,}", f"{entry.sha256[:16]}...")
        console.print(table)


def _table(title: str, headings: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, show_header=any(headings))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _show(console: Console, title: str, values: Iterable[tuple[str, Any]]) -> None:
    table = _table(title, ("", ""))
    for name, value in values:
        number = isinstance(value, int | float)
        table.add_row(Text(name), Text(f"{value:,}" if number else _plain(value)))
    console.print(table)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
