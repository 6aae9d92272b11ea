"""What `freshet store stats` says: the memory of everything that grows, part by part."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from service.commands.folder import DataFolder
from service.errors import InputError

SLOT, BYTES = "store.", ".bytes."


@dataclass(frozen=True)
class StoreStats:
    """Memory and counts of the trainer when it cut its newest version.

    `slots` and `histories` hold counts by name and, under `bytes`, the bytes of each part.
    `charged_bytes` is what the cap of `max_bytes` is held against (docs/store.md), and
    `resident_bytes` the trainer's whole process, libraries and buffers included.
    """

    version: int
    slots: dict[str, dict[str, Any]]
    histories: dict[str, Any]
    total_bytes: int
    charged_bytes: int
    max_bytes: int | None
    resident_bytes: int

    @classmethod
    def of(cls, folder: DataFolder) -> "StoreStats":
        """Read the newest manifest. Raises InputError if there is none or it says nothing."""
        manifest = folder.newest_manifest()
        if manifest is None or "memory.resident_bytes" not in manifest["metrics"]:
            raise InputError(
                f"{folder.root} has no version that tells its sizes; run `freshet train --data "
                f"{folder.root}` until it has published one"
            )
        sizes = {name: int(value) for name, value in manifest["metrics"].items()}
        slots: dict[str, dict[str, Any]] = {}
        for name, value in sizes.items():
            if name.startswith(SLOT):
                slot, counted = name.removeprefix(SLOT).split(".", 1)
                _put(slots.setdefault(slot, {"bytes": {}}), counted, value)
        histories: dict[str, Any] = {"bytes": {}}
        for name, value in sizes.items():
            if name.startswith("histories."):
                _put(histories, name.removeprefix("histories."), value)
        return cls(
            manifest["number"], slots, histories,
            sum(value for name, value in sizes.items() if BYTES in f".{name}"),
            sizes["memory.charged_bytes"], sizes.get("memory.max_bytes"),
            sizes["memory.resident_bytes"],
        )  # fmt: skip

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))

    def show(self, console: Console) -> None:
        """Draw it as a table."""
        table = Table(
            "part", "bytes", "per id", title=f"version {self.version}", title_style="bold"
        )
        for column in table.columns[1:]:
            column.justify = "right"
        for slot, counts in self.slots.items():
            _rows(table, slot, counts, counts["rows"])
        _rows(table, "histories", self.histories, self.histories["users"])
        table.add_row("together", f"{self.total_bytes:,}", "")
        console.print(table)
        cap = "no cap" if self.max_bytes is None else f"of {self.max_bytes:,} allowed"
        console.print(f"charged {self.charged_bytes:,} bytes, {cap}")
        console.print(f"resident in the trainer's process: {self.resident_bytes:,} bytes")


def _put(counts: dict[str, Any], name: str, value: int) -> None:
    if name.startswith("bytes."):
        counts["bytes"][name.removeprefix("bytes.")] = value
    else:
        counts[name] = value


def _rows(table: Table, owner: str, counts: dict[str, Any], ids: int) -> None:
    for part, size in counts["bytes"].items():
        table.add_row(f"{owner}: {part}", f"{size:,}", f"{size / ids:,.1f}" if ids else "")
    others = ", ".join(f"{n} {c:,}" for n, c in counts.items() if n != "bytes")
    table.add_row(f"{owner}: {others}", "", "", end_section=True, style="dim")
