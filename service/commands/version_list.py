"""What `freshet versions ls` says: every version of a directory, newest first."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.errors import VersionError
from service.versions import Manifest, VersionDirectory
from service.versions.decisions import Decisions

ROUGH_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))
MEGABYTE = 1e6


@dataclass(frozen=True)
class Chain:
    """The checkpoint or the snapshot of a version.

    `kind` is "base", "delta" or "none"; `own_bytes` is what this version wrote, `chain_bytes` what
    must be read to have it, in `files` files.
    """

    kind: str
    own_bytes: int
    chain_bytes: int
    files: int

    @classmethod
    def of(cls, manifest: Manifest, part: str) -> "Chain":
        """The chain of one part of a version."""
        names = manifest.part(part)
        kind = "none" if not names else "base" if len(names) == 1 else "delta"
        own = f"data/{manifest.number:08d}-"
        mine = (name for name in manifest.files if name.startswith(own) and f"/{part}/" in name)
        return cls(
            kind,
            sum(manifest.files[name].bytes for name in mine),
            sum(manifest.files[name].bytes for name in names),
            len(names),
        )

    def __str__(self) -> str:
        if self.kind == "none":
            return "none"
        own, chain = self.own_bytes / MEGABYTE, self.chain_bytes / MEGABYTE
        return f"{self.kind} {own:,.2f} of {chain:,.2f} MB"


@dataclass(frozen=True)
class Listed:
    """One version. `state` is made of `served`, `pinned`, `held: REASON`, `released`, `abandoned`;
    a version whose manifest cannot be read has its `problem` and nothing else."""

    number: int
    state: list[str]
    problem: str | None = None
    created_at: float = 0.0
    age_seconds: float = 0.0
    parent: int | None = None
    block: int = 0
    watermark: float = 0.0
    checkpoint: Chain = field(default_factory=lambda: Chain("none", 0, 0, 0))
    snapshot: Chain = field(default_factory=lambda: Chain("none", 0, 0, 0))
    precision: dict[str, str] = field(default_factory=dict)

    @property
    def fallbacks(self) -> dict[str, str]:
        """Tensors that are held more precisely than the rest: int8 would have changed scores."""
        return {name: kind for name, kind in self.precision.items() if kind in ("fp16", "fp32")}

    def cells(self) -> list[Text]:
        """The version as one line of the table."""
        if self.problem:
            return [*map(Text, [str(self.number), "", "", "", "", "", "", self.problem, ""])]
        return [
            Text(cell)
            for cell in (
                str(self.number),
                rough(self.age_seconds),
                "" if self.parent is None else str(self.parent),
                str(self.checkpoint),
                str(self.snapshot),
                f"{self.block:,}",
                utc(self.watermark),
                ", ".join(self.state),
                ", ".join(f"{name} {kind}" for name, kind in self.fallbacks.items()),
            )
        ]


@dataclass(frozen=True)
class Listing:
    """All versions, newest first. `served` is the version that servers are to answer from."""

    url: str
    served: int | None
    pinned: int | None
    generation: int
    versions: list[Listed]

    @classmethod
    def of(cls, directory: VersionDirectory) -> "Listing":
        """Read every manifest and decision. Raises VersionError for a damaged decision."""
        standing = Standing.of(directory)
        decisions, versions = standing.decisions, list(_listed(directory, standing))
        return cls(
            directory.url, standing.served, decisions.pinned, decisions.generation, versions[::-1]
        )

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))

    def show(self, console: Console) -> None:
        """Draw it as a table."""
        table = Table(title=self.url, title_justify="left")
        for heading in ("version", "age", "parent", "checkpoint", "snapshot", "block"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("watermark", no_wrap=True)
        for heading in ("state", "precision"):
            table.add_column(heading, overflow="fold")
        for one in self.versions:
            table.add_row(*one.cells())
        console.print(table)
        if self.pinned is not None:
            follow = "`freshet versions unpin` follows the newest version again"
            console.print(f"version {self.pinned} is pinned; {follow}")


@dataclass(frozen=True)
class Standing:
    """What operators and the gate made of the versions of a directory."""

    served: int | None
    live: frozenset[int]
    decisions: Decisions

    @classmethod
    def of(cls, directory: VersionDirectory) -> "Standing":
        """As it is now. Raises VersionError for a damaged decision."""
        return cls(directory.target(), frozenset(directory.live()), directory.decisions())

    def words(self, manifest: Manifest) -> list[str]:
        """The standing of one version, in a few words."""
        number, released = manifest.number, manifest.number in self.decisions.released
        found = {
            "served": number == self.served,
            "pinned": number == self.decisions.pinned,
            "abandoned": number not in self.live,
            "released": released,
            f"held: {manifest.held}": manifest.held is not None and not released,
        }
        return [word for word, holds in found.items() if holds]

    def listed(self, manifest: Manifest) -> Listed:
        """A version with its standing."""
        return Listed(
            number=manifest.number,
            state=self.words(manifest),
            created_at=manifest.created_at,
            age_seconds=round(max(0.0, time.time() - manifest.created_at), 3),
            parent=manifest.parent,
            block=manifest.block,
            watermark=manifest.watermark_ms / 1000,
            checkpoint=Chain.of(manifest, "checkpoint"),
            snapshot=Chain.of(manifest, "snapshot"),
            precision=dict(manifest.precision),
        )


def _listed(directory: VersionDirectory, standing: Standing) -> Iterator[Listed]:
    for number in directory.numbers():
        try:
            yield standing.listed(directory.manifest(number))
        except VersionError as error:
            yield Listed(number, ["damaged"], str(error))


def rough(seconds: float) -> str:
    """A span of time to be glanced at."""
    for length, unit in ROUGH_UNITS:
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def utc(seconds: float) -> str:
    """A time since the epoch as people write it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
