"""What a replay says at its end."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from service.commands.action_table import ActionTable
from service.commands.folder import DataFolder

OUTCOMES = {
    "trained": "positives_trained",
    "skipped": "positives_skipped",
    "history only": "context_only",
}
"""What became of an accepted action, by the trainer's name for its counter."""


@dataclass(frozen=True)
class Slot:
    """One embedding table: live rows, and the memory of vectors, index and counters."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class Work:
    """What one run of a replay took, and how many records were trained before it."""

    seconds: float
    records_before: int
    resident_bytes: int


@dataclass(frozen=True)
class Report:
    """Counts of actions, speed, what was published, and what it takes to keep it in memory.

    `rejected_rows` are rows of the file that could not become actions, `rejected_records` actions
    that the trainer refused, each by reason. `resident_bytes` is the trainer's whole process.
    """

    read: int
    rejected_rows: dict[str, int]
    rejected_records: dict[str, int]
    duplicates: int
    outcomes: dict[str, int]
    seconds: float
    actions_per_second: float
    version: int
    versions_kept: int
    hit_rate_at_10: dict[str, float]
    slots: dict[str, Slot]
    histories_users: int
    histories_bytes: int
    memory_bytes: int
    resident_bytes: int
    serve: str

    @classmethod
    def of(cls, table: ActionTable, work: Work, folder: DataFolder) -> "Report":
        """The report of what was done, from what the trainer left behind when it ended."""
        left = json.loads(folder.status.read_text())
        manifests = sorted((folder.root / "versions" / "manifests").glob("*.json"))
        slots = {"item": Slot(left["items"], left["item_bytes"])}
        trained = left["records"] - work.records_before
        return cls(
            read=len(table) + sum(table.rejected.values()),
            rejected_rows=dict(table.rejected),
            rejected_records=_reasons(left),
            duplicates=left["duplicates"],
            outcomes={name: left.get(counter, 0) for name, counter in OUTCOMES.items()},
            seconds=round(work.seconds, 3),
            actions_per_second=round(trained / work.seconds, 1),
            version=int(manifests[-1].stem),
            versions_kept=len(manifests),
            hit_rate_at_10=left["hit_rates"],
            slots=slots,
            histories_users=left["users"],
            histories_bytes=left["history_bytes"],
            memory_bytes=left["history_bytes"] + sum(slot.bytes for slot in slots.values()),
            resident_bytes=work.resident_bytes,
            serve=f"freshet serve --data {folder.root}",
        )

    def to_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(asdict(self))

    def show(self, console: Console) -> None:
        """The report as a table for people."""
        table = Table(show_header=False, box=None, title="Replay", title_justify="left")
        for name, value in self._lines():
            table.add_row(name, value)
        console.print(table)
        console.print(f"\nServe it: [bold]{self.serve}[/bold]", soft_wrap=True)

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "actions read", f"{self.read:,}"
        yield "rejected", _by_reason({**self.rejected_rows, **self.rejected_records})
        yield "duplicates", f"{self.duplicates:,}"
        for outcome, count in self.outcomes.items():
            yield outcome, f"{count:,}"
        yield "end to end", f"{self.seconds:.1f} s, {self.actions_per_second:,.0f} actions/s"
        yield "version", f"{self.version} (kept: {self.versions_kept})"
        rates = ", ".join(f"{model} {rate:.3f}" for model, rate in self.hit_rate_at_10.items())
        yield "HR@10 of the last events", rates or "not measured"
        for name, slot in self.slots.items():
            yield f"{name} rows", _times(slot.rows, slot.bytes)
        yield "users with a history", _times(self.histories_users, self.histories_bytes)
        yield "memory", f"{_mega(self.memory_bytes)} (resident: {_mega(self.resident_bytes)})"


def _reasons(left: dict[str, Any]) -> dict[str, int]:
    prefix = "rejected_"
    return {name.removeprefix(prefix): n for name, n in left.items() if name.startswith(prefix)}


def _by_reason(reasons: dict[str, Any]) -> str:
    if not reasons:
        return "0"
    listed = ", ".join(f"{reason}: {count:,}" for reason, count in reasons.items())
    return f"{sum(reasons.values()):,} ({listed})"


def _times(count: int, size_bytes: int) -> str:
    each = size_bytes / count if count else 0.0
    return f"{count:,} x {each:,.0f} bytes = {_mega(size_bytes)}"


def _mega(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
